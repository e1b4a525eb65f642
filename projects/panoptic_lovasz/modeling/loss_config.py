"""What the keys of ``cfg.MODEL.SEM_SEG_HEAD.LOSS`` may be."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ConfigError
from ..losses.lovasz import METHODS
from ..losses.options import IMPLEMENTATIONS

__all__ = ["check_loss_config"]


def check_loss_config(loss: Any, num_classes: int, region: str) -> None:
    """Raise a ConfigError if a value of ``cfg.MODEL.SEM_SEG_HEAD.LOSS`` cannot be used."""
    weights = list(loss.CLASS_WEIGHTS)
    last = num_classes - 1
    for key, valid, expected in (
        ("CE_WEIGHT", _is_weight(loss.CE_WEIGHT), "a number not below 0"),
        ("LOVASZ_WEIGHT", _is_weight(loss.LOVASZ_WEIGHT), "a number not below 0"),
        ("LOVASZ_START_ITER", loss.LOVASZ_START_ITER >= 0, "an iteration not below 0"),
        ("LOVASZ_RAMP_ITERS", loss.LOVASZ_RAMP_ITERS >= 0, "a number not below 0"),
        (
            "CLASSES",
            _are_classes(loss.CLASSES, num_classes),
            f'"present", "all" or a list of ids from 0 to {last}',
        ),
        ("METHOD", loss.METHOD in METHODS, " or ".join(f'"{method}"' for method in METHODS)),
        (
            "METHOD",
            loss.METHOD != "exact" or region == "lovasz",
            f'"binned": only the Lovász loss can be sorted, not the {region} loss',
        ),
        ("NUM_BINS", loss.NUM_BINS >= 1, "a positive number"),
        ("TVERSKY_ALPHA", _is_weight(loss.TVERSKY_ALPHA), "a number not below 0"),
        ("TVERSKY_BETA", _is_weight(loss.TVERSKY_BETA), "a number not below 0"),
        ("IMPL", loss.IMPL in IMPLEMENTATIONS, f"one of {', '.join(IMPLEMENTATIONS)}"),
        (
            "CLASS_WEIGHTS",
            not weights
            or (len(weights) == num_classes and all(map(_is_weight, weights)) and any(weights)),
            f"nothing, or one number not below 0 for each of the {num_classes} classes "
            "(MODEL.SEM_SEG_HEAD.NUM_CLASSES), not all 0",
        ),
        (
            "GLOBAL_BATCH",
            not (loss.GLOBAL_BATCH and loss.METHOD == "exact"),
            'False with METHOD "exact": sorted errors cannot be summed over processes',
        ),
    ):
        if not valid:
            found = getattr(loss, key)
            raise ConfigError(f"MODEL.SEM_SEG_HEAD.LOSS.{key} is {found!r}, expected {expected}")


def _are_classes(classes: Any, num_classes: int) -> bool:
    """Whether it names classes: by a word, or by ids that are all different."""
    if not isinstance(classes, (list, tuple)):
        return classes in (None, "present", "all")
    are_ids = all(type(c) is int and 0 <= c < num_classes for c in classes)
    return are_ids and 0 < len(classes) == len(set(classes))


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
