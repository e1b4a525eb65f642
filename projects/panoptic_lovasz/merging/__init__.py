"""Post-processing and merging: Detectron2's results, bit for bit, in less time and memory."""

from .labels import SemSegLogits
from .merge import merge_panoptic
from .postprocess import CombineRules, postprocess_panoptic

__all__ = ["CombineRules", "SemSegLogits", "merge_panoptic", "postprocess_panoptic"]
