"""Panoptic quality, mIoU and AP from panoptic ground truth.

Panoptic quality, its reports and the evaluation of submissions need NumPy alone.
"""

from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".build": ("build_evaluator",),
        ".instance_evaluation": ("PanopticInstanceEvaluator",),
        ".panoptic_evaluation": ("PanopticQualityEvaluator",),
        ".panoptic_quality": ("PanopticQuality",),
        ".sem_seg_evaluation": ("PanopticSemSegEvaluator",),
        ".submission": ("evaluate_submission",),
    },
)
