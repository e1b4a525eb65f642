"""Check a data set in the COCO panoptic format, describe it, and repair what is certain."""

from .check import CheckReport, Fault, check_coco_panoptic
from .repair import repair_coco_panoptic
from .statistics import Statistics

__all__ = ["CheckReport", "Fault", "Statistics", "check_coco_panoptic", "repair_coco_panoptic"]
