"""Statistics of data sets as training sees them, from the annotations alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..data import PanopticClasses
from .records import write_csv

__all__ = ["write_data_statistics"]

_COLUMNS = ("data set", "class", "kind", "images", "instances", "pixels, %")


def write_data_statistics(file: Path, datasets: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write images, instances and share of pixels by class as CSV.

    No PNG is read: pixels are those of the annotations' ``area``, and empty where one lacks it.
    Crowds count as pixels and images, not as instances. Data sets without panoptic annotations in
    their dicts are left out.

    Args:
        file: the CSV.
        datasets: dataset dicts by the name of a registered data set.
    """
    rows = []
    for name, dicts in datasets.items():
        if dicts and all("segments_info" in record for record in dicts):
            rows += _rows(name, dicts)
    write_csv(file, _COLUMNS, rows)


def _rows(name: str, dicts: Sequence[dict[str, Any]]) -> list[tuple]:
    classes = PanopticClasses.from_metadata(MetadataCatalog.get(name))
    keys = list(classes.from_dataset_id.values())
    images, instances, pixels = ({key: 0 for key in keys} for _ in range(3))
    complete, total = True, 0
    for record in dicts:
        total += record["height"] * record["width"]
        shown = set()
        for segment in record["segments_info"]:
            key = classes.segment_class(segment)
            shown.add(key)
            instances[key] += not segment.get("iscrowd", 0)
            pixels[key] += segment.get("area", 0)
            complete &= "area" in segment
        for key in shown:
            images[key] += 1
    return [
        (
            f"{name}, {len(dicts)} images",
            classes.class_name(*key),
            "thing" if key[0] else "stuff",
            images[key],
            instances[key] if key[0] else None,
            f"{100 * pixels[key] / total:.2f}" if complete else None,
        )
        for key in keys
    ]
