"""Check a data set in the COCO panoptic format, describe it, and repair what is certain."""

from ..fault import Fault
from .check import CheckReport, check_coco_panoptic
from .check_instances import check_coco_instances
from .repair import repair_coco_panoptic
from .statistics import Statistics

__all__ = [
    "CheckReport",
    "Fault",
    "Statistics",
    "check_coco_instances",
    "check_coco_panoptic",
    "repair_coco_panoptic",
]
