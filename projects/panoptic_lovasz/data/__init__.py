"""Panoptic data sets: the COCO panoptic format, registration, mapping and sampling."""

from .classes import IGNORE_LABEL, PanopticClasses
from .coco_panoptic import PanopticSample, load_coco_panoptic_json, write_coco_panoptic
from .mapper import PanopticFPNDatasetMapper
from .register import (
    get_panoptic_classes,
    get_panoptic_dataset_dicts,
    register_coco_panoptic,
    register_from_config,
    set_class_counts,
)
from .shapes import make_shapes

__all__ = [
    "IGNORE_LABEL",
    "PanopticClasses",
    "PanopticFPNDatasetMapper",
    "PanopticSample",
    "get_panoptic_classes",
    "get_panoptic_dataset_dicts",
    "load_coco_panoptic_json",
    "make_shapes",
    "register_coco_panoptic",
    "register_from_config",
    "set_class_counts",
    "write_coco_panoptic",
]
