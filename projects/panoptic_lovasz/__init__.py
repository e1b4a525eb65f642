"""Panoptic FPN trained with the Lovász-Softmax loss, as a Detectron2 project.

A part that does without Detectron2, such as :mod:`panoptic_lovasz.losses`, can be imported where it
is not installed. Whatever reads a config registers the heads, the meta-architecture, the losses and
the samplers.
"""

from .lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".config": ("add_panoptic_lovasz_config", "load_config"),
        ".data": ("PanopticFPNDatasetMapper", "register_coco_panoptic", "register_from_config"),
        ".engine": ("Trainer", "launch"),
        ".errors": ("ConfigError", "DatasetError"),
        ".evaluation": ("build_evaluator",),
        ".losses": ("cross_entropy_lovasz", "lovasz_hinge", "lovasz_softmax"),
        ".modeling": (
            "SEM_SEG_LOSS_REGISTRY",
            "LovaszSemSegFPNHead",
            "PanopticLovaszFPN",
            "build_sem_seg_loss",
        ),
    },
)
__version__ = "0.2.0"
