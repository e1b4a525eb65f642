"""Panoptic FPN trained with the Lovász-Softmax loss, as a Detectron2 project.

Names are resolved when they are used (PEP 562), so that a part which does without Detectron2, such
as :mod:`panoptic_lovasz.losses`, can be imported where it is not installed. Whatever reads a config
registers the heads, the meta-architecture, the losses and the samplers.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    ".config": ("add_panoptic_lovasz_config", "load_config"),
    ".data": (
        "PanopticFPNDatasetMapper",
        "register_coco_panoptic",
        "register_from_config",
    ),
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
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_MODULE_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
