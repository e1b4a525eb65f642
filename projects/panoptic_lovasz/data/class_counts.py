"""Class counts of a config, taken from its data sets."""

from __future__ import annotations

import functools
from collections.abc import Collection

from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog

from ..errors import ConfigError, DatasetError
from ..flat import flatten
from .classes import PanopticClasses
from .register import EVALUATOR_TYPE, missing_json_message

__all__ = ["COUNT_KEYS", "set_class_counts"]

COUNT_KEYS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": "thing classes",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "semantic classes (stuff, and all things as one)",
}


def set_class_counts(cfg: CfgNode, given: Collection[str] | None = None) -> None:
    """Set MODEL.ROI_HEADS.NUM_CLASSES and MODEL.SEM_SEG_HEAD.NUM_CLASSES from the data sets.

    A count that was given must equal the data's. Data sets that are not panoptic, or whose classes
    are unknown while both counts are given, leave the config as it is.

    Args:
        cfg: config whose DATASETS.TRAIN and DATASETS.TEST are registered; changed in place.
        given: the keys that the user set; by default those that differ from Detectron2's defaults.

    Raises:
        ConfigError: if a given count contradicts the data; the message has both numbers.
        DatasetError: if a data set of DATASETS.PANOPTIC is not there to tell its classes.
    """
    if given is None:
        defaults = get_cfg()
        given = [key for key in COUNT_KEYS if flatten(cfg)[key] != flatten(defaults)[key]]
    first = None  # with classes; the others must have the same
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        metadata = MetadataCatalog.get(name)
        if metadata.get("stuff_dataset_id_to_contiguous_id") is None:
            missing_json = metadata.get("evaluator_type") == EVALUATOR_TYPE
            if missing_json and not first and not set(COUNT_KEYS) <= set(given):
                raise DatasetError(
                    f"{missing_json_message(name, metadata.panoptic_json)}. To use a model without "
                    f"the data, set {' and '.join(COUNT_KEYS)}, or take the config that training "
                    "wrote into its OUTPUT_DIR"
                )
            continue
        classes = PanopticClasses.from_metadata(metadata)
        if not classes.num_things:
            raise DatasetError(
                f"data set '{name}' has no thing category; a panoptic model needs at least one"
            )
        counts = (classes.num_things, classes.num_semantic)
        for (key, what), count in zip(COUNT_KEYS.items(), counts, strict=True):
            found = flatten(cfg)[key]
            if first and found != count:
                raise ConfigError(
                    f"the data sets '{first}' and '{name}' have {found} and {count} {what}, "
                    "expected the same classes"
                )
            if key in given and found != count:
                raise ConfigError(
                    f"{key} is {found}, but the data set '{name}' has {count} {what}; "
                    f"set it to {count}, or remove the key to take the number from the data"
                )
            section, _, last = key.rpartition(".")
            setattr(functools.reduce(getattr, section.split("."), cfg), last, count)
        first = first or name
