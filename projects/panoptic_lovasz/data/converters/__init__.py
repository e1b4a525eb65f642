"""Converters of other annotation layouts into the COCO panoptic format, one function each."""

from .camvid import convert_camvid
from .cityscapes import convert_cityscapes
from .coco_instances import convert_coco_instances
from .label_folders import convert_label_folders, read_categories

__all__ = [
    "convert_camvid",
    "convert_cityscapes",
    "convert_coco_instances",
    "convert_label_folders",
    "read_categories",
]
