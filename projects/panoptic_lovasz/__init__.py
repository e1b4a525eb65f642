"""Panoptic FPN trained with the Lovász-Softmax loss, as a Detectron2 project.

Importing the package registers the semantic head, the meta-architecture, the losses and the
sampler names in Detectron2's registries.
"""

from .config import add_panoptic_lovasz_config, load_config
from .data import PanopticFPNDatasetMapper, register_coco_panoptic, register_from_config
from .engine import Trainer, launch
from .errors import ConfigError, DatasetError
from .evaluation import build_evaluator
from .losses import (
    SEM_SEG_LOSS_REGISTRY,
    build_sem_seg_loss,
    cross_entropy_lovasz,
    lovasz_hinge,
    lovasz_softmax,
)
from .modeling import LovaszSemSegFPNHead, PanopticLovaszFPN

__all__ = [
    "SEM_SEG_LOSS_REGISTRY",
    "ConfigError",
    "DatasetError",
    "LovaszSemSegFPNHead",
    "PanopticFPNDatasetMapper",
    "PanopticLovaszFPN",
    "Trainer",
    "add_panoptic_lovasz_config",
    "build_evaluator",
    "build_sem_seg_loss",
    "cross_entropy_lovasz",
    "launch",
    "load_config",
    "lovasz_hinge",
    "lovasz_softmax",
    "register_coco_panoptic",
    "register_from_config",
]
__version__ = "0.1.0"
