"""What a config may set that was found with weights: a stranger wrote it, not the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from ..data.register import entry_data_sets
from ..errors import ConfigError
from ..flat import flatten

__all__ = ["ALLOWED", "DATA_KEYS", "take_allowed"]

# What builds the network, prepares its input, trains it and decides in tests. Everything else is
# for the user to say: where to read and write, what to trust, what the machine is to spend.
ALLOWED = (
    "DATALOADER.ASPECT_RATIO_GROUPING",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
    "DATALOADER.RANDOM_SUBSET_RATIO",
    "DATALOADER.REPEAT_THRESHOLD",
    "DATALOADER.SAMPLER_TRAIN",
    "INPUT",
    "MODEL.ANCHOR_GENERATOR",
    "MODEL.BACKBONE",
    "MODEL.FPN",
    "MODEL.INS_EMBED_HEAD",
    "MODEL.KEYPOINT_ON",
    "MODEL.MASK_ON",
    "MODEL.META_ARCHITECTURE",
    "MODEL.PANOPTIC_DEEPLAB",
    "MODEL.PANOPTIC_FPN",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.POINT_HEAD",
    "MODEL.PROPOSAL_GENERATOR",
    "MODEL.RESNETS",
    "MODEL.RETINANET",
    "MODEL.ROI_BOX_CASCADE_HEAD",
    "MODEL.ROI_BOX_HEAD",
    "MODEL.ROI_HEADS",
    "MODEL.ROI_KEYPOINT_HEAD",
    "MODEL.ROI_MASK_HEAD",
    "MODEL.RPN",
    "MODEL.SEM_SEG_HEAD",
    "MODEL.TIMM",
    "SEED",
    "SOLVER",
    "TEST.AUG",
    "TEST.DETECTIONS_PER_IMAGE",
    "TEST.EARLY_STOPPING",
    "TEST.EMA",
    "TEST.EVAL_PERIOD",
    "TEST.KEYPOINT_OKS_SIGMAS",
    "TEST.PRECISE_BN",
)
_OF_THE_MACHINE = "MODEL.DEVICE"  # left out without a word: it says nothing about the model
_NAMES = ("DATASETS.TRAIN", "DATASETS.TEST")
_ENTRIES = "DATASETS.PANOPTIC"
DATA_KEYS = (_ENTRIES, *_NAMES)


def take_allowed(
    written: Mapping[str, Any], defaults: CfgNode
) -> tuple[dict[str, Any], dict[str, str]]:
    """Divide a config that was found with weights into what is taken and what is left out.

    Args:
        written: the config, nested.
        defaults: the config without it. A key that is not in it is taken: merging then says that
            it is unknown, or was removed.

    Returns:
        Values to set, and reasons why not, by full key. A value that is the default is in neither
        if it is not allowed.
    """
    known = flatten(defaults)
    taken: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for key, value in flatten(written).items():
        if key == _ENTRIES and isinstance(value, list):
            reasons = [_reason_against_entry(entry) for entry in value]
            taken[key] = [e for e, reason in zip(value, reasons, strict=True) if not reason]
            left_out |= {f"{key}[{n}]": reason for n, reason in enumerate(reasons) if reason}
        elif key in _NAMES and not all(map(_is_name, value if _is_list(value) else [value])):
            left_out[key] = "a name with more than letters, digits, '.', '_', '+', '-' and spaces"
        elif key not in known or key in DATA_KEYS or _is_allowed(key):
            taken[key] = value
        elif key != _OF_THE_MACHINE and value != (
            list(known[key]) if isinstance(known[key], tuple) else known[key]
        ):
            left_out[key] = ""
    return taken, left_out


def _is_allowed(key: str) -> bool:
    return key.startswith(tuple(f"{section}." for section in ALLOWED)) or key in ALLOWED


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_name(value: Any) -> bool:
    """A name that cannot lead anywhere as a part of a path: results are in folders of that name."""
    return isinstance(value, str) and re.fullmatch(r"(?!\.+$)[\w.+ -]+", value) is not None


def _reason_against_entry(entry: Any) -> str:
    try:
        data_sets = entry_data_sets(entry, "")
    except ConfigError:
        return "not an entry"
    for fields in data_sets:
        if not _is_name(fields["name"]):
            return "its name"
        for field in ("json", "images", "panoptic"):
            if not _stays_inside(fields[field]):
                return f"{field}: not a relative path that stays inside $DETECTRON2_DATASETS"
    return ""


def _stays_inside(path: str) -> bool:
    parts = re.split(r"[/\\]", path)
    is_relative = parts[0] != "" and not path.startswith("~") and ":" not in path  # URL, drive
    return is_relative and ".." not in parts and path.isprintable()
