"""Detectron2's side of the model: heads, losses, meta-architecture, registered by their names."""

from .. import needs_detectron2  # noqa: F401  # first: one clear error without it
from .backbones import TimmBackbone, build_timm_backbone, build_timm_fpn_backbone
from .build_errors import clear_build_errors
from .losses import SEM_SEG_LOSS_REGISTRY, build_sem_seg_loss
from .meta_arch import PanopticLovaszFPN
from .semantic_head import LovaszSemSegFPNHead

__all__ = [
    "SEM_SEG_LOSS_REGISTRY",
    "LovaszSemSegFPNHead",
    "PanopticLovaszFPN",
    "TimmBackbone",
    "build_sem_seg_loss",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "clear_build_errors",
]
