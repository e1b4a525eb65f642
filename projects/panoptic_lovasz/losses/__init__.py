"""Segmentation losses in pure PyTorch: Lovász-Softmax, Lovász hinge, and fusion with cross-entropy.

Nothing here needs Detectron2. The losses as modules, with their registry and config, are those of
:mod:`panoptic_lovasz.modeling.losses`; their names are found here as well.
"""

from ..lazy import lazy_names
from .fused import cross_entropy_lovasz
from .lovasz import lovasz_hinge, lovasz_softmax

__getattr__, __dir__, _modules = lazy_names(
    __name__,
    {
        "..modeling.losses": (
            "SEM_SEG_LOSS_REGISTRY",
            "CrossEntropyLoss",
            "CrossEntropyLovaszLoss",
            "LovaszSoftmaxLoss",
            "build_sem_seg_loss",
        )
    },
)
__all__ = ["cross_entropy_lovasz", "lovasz_hinge", "lovasz_softmax", *_modules]
