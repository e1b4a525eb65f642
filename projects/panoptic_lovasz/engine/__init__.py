"""Training: the trainer and how its processes are started."""

from .launch import launch
from .resuming import check_resumable
from .trainer import Trainer

__all__ = ["Trainer", "check_resumable", "launch"]
