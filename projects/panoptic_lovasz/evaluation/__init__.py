"""Panoptic quality, mIoU and AP from panoptic ground truth."""

from .build import build_evaluator
from .instance_evaluation import PanopticInstanceEvaluator
from .panoptic_evaluation import PanopticQualityEvaluator
from .panoptic_quality import PanopticQuality
from .sem_seg_evaluation import PanopticSemSegEvaluator
from .submission import evaluate_submission

__all__ = [
    "PanopticInstanceEvaluator",
    "PanopticQuality",
    "PanopticQualityEvaluator",
    "PanopticSemSegEvaluator",
    "build_evaluator",
    "evaluate_submission",
]
