"""Segmentation losses: Lovász-Softmax, Lovász hinge, and their fusion with cross-entropy."""

from .build import (
    SEM_SEG_LOSS_REGISTRY,
    CrossEntropyLoss,
    CrossEntropyLovaszLoss,
    LovaszSoftmaxLoss,
    build_sem_seg_loss,
)
from .fused import cross_entropy_lovasz
from .lovasz import lovasz_hinge, lovasz_softmax

__all__ = [
    "SEM_SEG_LOSS_REGISTRY",
    "CrossEntropyLoss",
    "CrossEntropyLovaszLoss",
    "LovaszSoftmaxLoss",
    "build_sem_seg_loss",
    "cross_entropy_lovasz",
    "lovasz_hinge",
    "lovasz_softmax",
]
