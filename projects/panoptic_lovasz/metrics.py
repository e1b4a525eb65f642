"""The names of metrics, once.

An evaluator returns ``{task: {metric: value}}``, which Detectron2 flattens to ``task/metric``; with
several test sets to ``data set/task/metric``. The value of a class is called ``metric-class``.
Whatever an evaluator returns is logged, kept and shown; what is listed here stands first, under a
title.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TypeVar

__all__ = ["HEADLINES", "TITLES", "averages", "by_class", "find", "interval", "of_test_sets"]

Value = TypeVar("Value")

# What people look at, by its title.
TITLES = {
    "PQ": "panoptic_seg/PQ",
    "PQ_th": "panoptic_seg/PQ_th",
    "PQ_st": "panoptic_seg/PQ_st",
    "SQ": "panoptic_seg/SQ",
    "RQ": "panoptic_seg/RQ",
    "mIoU": "panoptic_seg/mIoU",
    "mIoU, semantic head": "sem_seg/mIoU",
    "boundary PQ": "panoptic_seg/boundary_PQ",
    "mIoU by image": "panoptic_seg/mIoU_image",
    "mIoU, worst tenth": "panoptic_seg/mIoU_worst10",
    "box AP": "bbox/AP",
    "mask AP": "segm/AP",
}
HEADLINES = ("PQ", "mIoU", "mIoU, semantic head")  # titles for where there is room for a few


def find(metrics: Mapping[str, float], key: str) -> float:
    """A metric of the first test set that has it; NaN if none has.

    Args:
        metrics: values by flattened name.
        key: ``task/metric``.
    """
    found = (v for k, v in metrics.items() if k == key or k.endswith(f"/{key}"))
    return next(found, math.nan)


def interval(metrics: Mapping[str, float], key: str) -> tuple[float, float]:
    """Ends of a metric's interval, which an evaluator gives as ``key_low`` and ``key_high``."""
    return find(metrics, f"{key}_low"), find(metrics, f"{key}_high")


def of_test_sets(
    metrics: Mapping[str, float], test_sets: Collection[str]
) -> dict[str, dict[str, float]]:
    """Metrics by ``task/metric`` of each test set.

    Args:
        metrics: values by flattened name.
        test_sets: names of the test sets; where Detectron2 leaves the name out because there is one
            test set, its metrics are found under "".
    """
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        of = next((t for t in test_sets if name.startswith(f"{t}/")), "")
        found.setdefault(of, {})[name.removeprefix(f"{of}/")] = value
    return found


def averages(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """The metrics that are not of a single class: those of :data:`TITLES`, then the others."""
    known = {title: metrics[key] for title, key in TITLES.items() if key in metrics}
    others = {k: v for k, v in metrics.items() if not _class_of(k) and k not in TITLES.values()}
    return known | others


def by_class(metrics: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Values by class of every ``task/metric`` that has them.

    Args:
        metrics: values by ``task/metric``, of one test set.
    """
    found: dict[str, dict[str, Value]] = {}
    for name, value in metrics.items():
        if class_name := _class_of(name):
            found.setdefault(name.removesuffix(f"-{class_name}"), {})[class_name] = value
    return found


def _class_of(name: str) -> str:
    return name.partition("/")[2].partition("-")[2]
