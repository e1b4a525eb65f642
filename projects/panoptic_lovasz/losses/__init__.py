"""Segmentation losses in pure PyTorch: Lovász-Softmax, other region losses, cross-entropy.

Nothing here needs Detectron2. The losses as modules, with their registry and config, are those of
:mod:`panoptic_lovasz.modeling.losses`; their names are found here as well.
"""

from ..lazy import lazy_names
from .fused import cross_entropy_lovasz, cross_entropy_region
from .lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax
from .options import LossOptions

__getattr__, __dir__, _modules = lazy_names(
    __name__,
    {
        "..modeling.losses": (
            "SEM_SEG_LOSS_REGISTRY",
            "BalancedCrossEntropyLoss",
            "CrossEntropyDiceLoss",
            "CrossEntropyJaccardLoss",
            "CrossEntropyLoss",
            "CrossEntropyLovaszLoss",
            "CrossEntropyTverskyLoss",
            "LovaszSoftmaxLoss",
            "build_sem_seg_loss",
        )
    },
)
__all__ = [
    "LossOptions",
    "cross_entropy_lovasz",
    "cross_entropy_region",
    "lovasz_hinge",
    "lovasz_sigmoid",
    "lovasz_softmax",
    *_modules,
]
