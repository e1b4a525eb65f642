"""Statistics of data sets as training sees them, from the annotations alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..data import PanopticClasses
from ..data.checking.files import ImageFindings
from ..data.checking.statistics import Statistics
from ..files import write_csv

__all__ = ["write_data_statistics"]

_COLUMNS = ("data set", "class", "kind", "images", "instances", "pixels, %")


def write_data_statistics(file: Path, datasets: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write images, instances and share of pixels by class as CSV.

    No PNG is read: pixels are those of the annotations' ``area``, and empty where one lacks it, or
    an image its size. Crowds count as pixels and images, not as instances. Data sets without
    panoptic annotations in their dicts are left out.

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
    statistics = Statistics(classes.categories)
    complete, total = True, 0
    for record in dicts:
        segments = [
            {**s, "category_id": classes.dataset_id(*classes.segment_class(s))}
            for s in record["segments_info"]
        ]
        complete &= all("area" in s for s in segments) and {"height", "width"} <= record.keys()
        total += record.get("height", 0) * record.get("width", 0)
        areas = {s["id"]: s.get("area", 0) for s in segments}
        statistics.add(ImageFindings(areas=areas, segments=segments))
    return [
        (
            f"{name}, {len(dicts)} images",
            row.name,
            "thing" if row.isthing else "stuff",
            row.images,
            row.instances if row.isthing else None,
            f"{100 * row.pixels / total:.2f}" if complete else None,
        )
        for row in statistics.rows()
    ]
