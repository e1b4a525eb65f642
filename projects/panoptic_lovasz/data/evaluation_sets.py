"""The data sets to evaluate on, checked before the training that they end."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DatasetError
from .register import (
    EVALUATOR_TYPE,
    get_panoptic_classes,
    get_panoptic_dataset_dicts,
    known_names,
)

__all__ = ["check_evaluation_sets"]


def check_evaluation_sets(cfg: CfgNode) -> None:
    """Check that what ``cfg.DATASETS.TEST`` names can be evaluated on.

    Raises:
        DatasetError: if a data set is not registered, or one of this project's cannot be loaded:
            its JSON is missing or faulty, or an image is.
        ConfigError: if two of this project's, those to train with included, differ in their
            classes.
    """
    for name in cfg.DATASETS.TEST:
        if name not in DatasetCatalog.list():
            raise DatasetError(f"DATASETS.TEST: '{name}' is not registered{known_names()}")
    for name in _own(cfg.DATASETS.TEST):
        get_panoptic_dataset_dicts(name)
    names = [
        name
        for name in dict.fromkeys(_own((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
        if "stuff_dataset_id_to_contiguous_id" in MetadataCatalog.get(name).as_dict()
    ]  # without those to train with, where they are not
    if names:
        get_panoptic_classes(names)


def _own(names: Sequence[str]) -> list[str]:
    """Those that are registered as panoptic data sets of this project."""
    return [n for n in names if MetadataCatalog.get(n).get("evaluator_type") == EVALUATOR_TYPE]
