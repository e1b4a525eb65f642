"""Segmentation losses in pure PyTorch: Lovász-Softmax, Lovász hinge, and fusion with cross-entropy.

Nothing here needs Detectron2. The losses as modules, with their registry and config, are those of
:mod:`panoptic_lovasz.modeling.losses`; their names are found here as well.
"""

from __future__ import annotations

from typing import Any

from .fused import cross_entropy_lovasz
from .lovasz import lovasz_hinge, lovasz_softmax

_MODULES = (
    "SEM_SEG_LOSS_REGISTRY",
    "CrossEntropyLoss",
    "CrossEntropyLovaszLoss",
    "LovaszSoftmaxLoss",
    "build_sem_seg_loss",
)

__all__ = ["cross_entropy_lovasz", "lovasz_hinge", "lovasz_softmax", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..modeling import losses

    return getattr(losses, name)
