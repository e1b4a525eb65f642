"""Post-processing and merging: Detectron2's results, bit for bit, in less time and memory."""

from .. import needs_detectron2  # noqa: F401  # first: one clear error without it
from .labels import HeadLogits
from .lazy_logits import SemSegLogits
from .merge import merge_panoptic
from .postprocess import postprocess_panoptic
from .rules import CombineRules

__all__ = [
    "CombineRules",
    "HeadLogits",
    "SemSegLogits",
    "merge_panoptic",
    "postprocess_panoptic",
]
