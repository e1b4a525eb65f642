"""Panoptic data sets: the COCO panoptic format, registration, mapping and sampling."""

from .build import build_panoptic_train_loader
from .classes import IGNORE_LABEL, PanopticClasses
from .coco_panoptic import load_coco_panoptic_json
from .mapper import PanopticFPNDatasetMapper
from .register import (
    get_panoptic_classes,
    get_panoptic_dataset_dicts,
    register_coco_panoptic,
    register_from_config,
    set_class_counts,
)
from .samplers import EquiBatchSampler, build_train_sampler
from .shapes import make_shapes
from .writer import PanopticSample, write_coco_panoptic

__all__ = [
    "IGNORE_LABEL",
    "EquiBatchSampler",
    "PanopticClasses",
    "PanopticFPNDatasetMapper",
    "PanopticSample",
    "build_panoptic_train_loader",
    "build_train_sampler",
    "get_panoptic_classes",
    "get_panoptic_dataset_dicts",
    "load_coco_panoptic_json",
    "make_shapes",
    "register_coco_panoptic",
    "register_from_config",
    "set_class_counts",
    "write_coco_panoptic",
]
