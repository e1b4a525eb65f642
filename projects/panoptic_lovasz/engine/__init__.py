"""Training: the trainer and how its processes are started."""

from .. import needs_detectron2  # noqa: F401  # first: one clear error without it
from .launch import launch
from .resuming import check_resumable
from .trainer import Trainer

__all__ = ["Trainer", "check_resumable", "launch"]
