"""Detectron2's side of the model: heads, losses, meta-architecture, registered by their names."""

from .. import needs_detectron2  # noqa: F401  # first: one clear error without it
from .backbones import TimmBackbone, build_timm_backbone, build_timm_fpn_backbone
from .build_errors import clear_build_errors
from .deeplab_heads import LovaszDeepLabV3PlusHead, LovaszPanopticDeepLabSemSegHead
from .losses import SEM_SEG_LOSS_REGISTRY, build_sem_seg_loss
from .mask_head import LovaszMaskHead
from .meta_arch import PanopticLovaszFPN, logits_stride, semantic_logits
from .semantic_head import LovaszSemSegFPNHead

__all__ = [
    "SEM_SEG_LOSS_REGISTRY",
    "LovaszDeepLabV3PlusHead",
    "LovaszMaskHead",
    "LovaszPanopticDeepLabSemSegHead",
    "LovaszSemSegFPNHead",
    "PanopticLovaszFPN",
    "TimmBackbone",
    "build_sem_seg_loss",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "clear_build_errors",
    "logits_stride",
    "semantic_logits",
]
