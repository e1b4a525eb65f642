"""What a :class:`PanopticQuality` says: metrics by name, tables, JSON and CSV files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from ..files import write_atomically, write_csv, write_text
from .images import (
    COUNTS_FILE,
    ImageCounts,
    in_pairs,
    intervals,
    overall,
    per_image,
    write_counts,
)
from .matching import SIZES
from .panoptic_quality import PanopticQuality

__all__ = [
    "format_difference",
    "format_report",
    "panoptic_metrics",
    "per_class_rows",
    "write_report",
]


def panoptic_metrics(quality: PanopticQuality) -> dict[str, float]:
    """Metrics in percent; NaN where there is nothing to average.

    Returns:
        ``PQ``, ``SQ``, ``RQ``: averages over the categories that have a segment, in the ground
        truth or wrongly predicted; ``_th`` over things, ``_st`` over stuff.
        ``PQ_small``, ``PQ_medium``, ``PQ_large``: PQ over segments of an area below 32², below
        96², and above, in pixels.
        ``mIoU``, ``mIoU_th``, ``mIoU_st``: pixel IoU of the panoptic output over all categories,
        things, stuff.
        ``mIoU_image``, ``mIoU_worst10``: mean of the images' own mIoU, and that of the worst tenth
        of them (:func:`~.images.per_image`).
        ``PQ_low``, ``PQ_high``, ``mIoU_low``, ``mIoU_high``: ends of the 95 % intervals over the
        images (:func:`~.images.intervals`).
        ``PQ-<name>``: PQ of a category.
        If boundaries were looked at, ``boundary_PQ``, ``boundary_SQ``, ``boundary_RQ`` with
        ``_th`` and ``_st``, and ``mIoU_st_interior``, which leaves out a band around ground-truth
        boundaries.
    """
    isthing = np.array([c["isthing"] for c in quality.categories], dtype=bool)
    kinds = {"": np.ones_like(isthing), "_th": isthing, "_st": ~isthing}
    pq = quality.per_class()["PQ"]
    by_class = {**quality.per_class(), "mIoU": quality.iou_per_class()}
    if quality.boundaries:
        by_class |= {f"boundary_{m}": v for m, v in quality.boundary.quality().items()}
    metrics = {m + k: _mean(v[chosen]) for m, v in by_class.items() for k, chosen in kinds.items()}
    for size, values in zip(SIZES, quality.segments.quality()["PQ"], strict=True):
        metrics[f"PQ_{size}"] = _mean(values)
    if quality.boundaries:
        metrics["mIoU_st_interior"] = _mean(quality.iou_per_class(near_boundaries=False)[~isthing])
    metrics |= {m: 100 * value for m, value in per_image(quality.images).items()}
    for m, (low, high) in intervals(quality.images).items():
        metrics |= {f"{m}_low": 100 * low, f"{m}_high": 100 * high}
    return metrics | {f"PQ-{n}": 100 * float(v) for n, v in zip(_names(quality), pq, strict=True)}


def per_class_rows(quality: PanopticQuality) -> list[dict[str, Any]]:
    """One row per category: its id, name, isthing, metrics in percent, and counts of segments."""
    by_size = quality.segments.quality()["PQ"]
    columns = {
        **quality.per_class(),
        **{f"PQ_{size}": values for size, values in zip(SIZES, by_size, strict=True)},
        "IoU": quality.iou_per_class(),
    }
    if quality.boundaries:
        columns["IoU_interior"] = quality.iou_per_class(near_boundaries=False)
        columns["boundary_PQ"] = quality.boundary.quality()["PQ"]
    segments = quality.segments.sum()
    counts = {"TP": segments.tp, "FP": segments.fp, "FN": segments.fn}
    return [
        {
            **category,
            **{key: 100 * float(values[i]) for key, values in columns.items()},
            **{key: int(values[i]) for key, values in counts.items()},
        }
        for i, category in enumerate(quality.categories)
    ]


def format_report(quality: PanopticQuality, metrics: Mapping[str, float]) -> str:
    """Tables of the averages and of the categories that have a segment.

    Args:
        quality: what was counted.
        metrics: its :func:`panoptic_metrics`.
    """
    seen = [r for r in per_class_rows(quality) if r["TP"] + r["FP"] + r["FN"]]
    averaged = [m for m in ("PQ", "SQ", "RQ", "boundary_PQ", "mIoU") if m in metrics]
    summary = [
        [label, *(metrics[m + key] for m in averaged), len(chosen)]
        for label, key, chosen in (
            ("All", "", seen),
            ("Things", "_th", [r for r in seen if r["isthing"]]),
            ("Stuff", "_st", [r for r in seen if not r["isthing"]]),
        )
    ]
    bounds = [[m, metrics[m], metrics[f"{m}_low"], metrics[f"{m}_high"]] for m in ("PQ", "mIoU")]
    extra = ["PQ_small", "PQ_medium", "PQ_large", "mIoU_st_interior", "mIoU_image", "mIoU_worst10"]
    extra = [m for m in extra if m in metrics]
    columns = ["PQ", "SQ", "RQ", *(["boundary_PQ"] if quality.boundaries else [])]
    columns += ["IoU", "TP", "FP", "FN"]
    tables = {
        "Panoptic Evaluation Results:": _table(summary, ["", *averaged, "#categories"]),
        f"95 % intervals over {quality.num_images} images, by bootstrap:": _table(
            bounds, ["", "value", "from", "to"]
        ),
        "By size, away from boundaries, by image:": _table([[metrics[m] for m in extra]], extra),
        "Per-category panoptic quality:": _table(
            [[r["name"], *(r[c] for c in columns)] for r in seen], ["category", *columns]
        ),
    }
    return "\n\n".join(f"{title}\n{table}" for title, table in tables.items())


def format_difference(images: Sequence[ImageCounts], others: Sequence[ImageCounts]) -> str:
    """A table of how much better PQ and mIoU are than in another evaluation of the same images.

    Raises:
        DatasetError: the images are not the same.
    """
    pair = in_pairs(images, others)
    values = [overall(part) for part in pair]
    rows = [
        [m, 100 * (values[0][m] - values[1][m]), 100 * low, 100 * high]
        for m, (low, high) in intervals(*pair).items()
    ]
    title = "Difference to the other evaluation, and its 95 % interval over the images:"
    return f"{title}\n{_table(rows, ['', 'difference', 'from', 'to'])}"


def write_report(quality: PanopticQuality, metrics: Mapping[str, float], folder: Path) -> None:
    """Write what was counted, NaN being empty or null.

    ``panoptic_quality.csv`` has :func:`per_class_rows`, ``panoptic_quality.json`` these and the
    metrics; ``per_image.csv`` PQ and mIoU of each image, the worst first; ``image_counts.npz`` what
    :func:`~.images.read_counts` reads; ``confusion_matrix.csv`` pixels: rows are the ground truth,
    columns the prediction, both end in void.

    Args:
        quality: what was counted.
        metrics: its :func:`panoptic_metrics`.
        folder: to write into; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_without_nan(row) for row in per_class_rows(quality)]
    content = {
        "num_images": quality.num_images,
        "metrics": _without_nan(metrics),
        "per_class": rows,
    }
    write_text(folder / "panoptic_quality.json", json.dumps(content, indent=1))
    write_csv(folder / "panoptic_quality.csv", rows[0], (r.values() for r in rows))
    images = [
        _without_nan({"image": i.name, "PQ": 100 * i.pq(), "mIoU": 100 * i.miou()})
        for i in quality.images
    ]
    images.sort(key=lambda row: (row["PQ"] is None, row["PQ"]))
    write_csv(folder / "per_image.csv", ("image", "PQ", "mIoU"), (r.values() for r in images))
    write_atomically(folder / COUNTS_FILE, lambda f: write_counts(f, quality.images))
    names = [*_names(quality), "void"]
    pixels = quality.confusion.sum(axis=0).tolist()
    matrix = ([name, *row] for name, row in zip(names, pixels, strict=True))
    write_csv(folder / "confusion_matrix.csv", ["ground truth", *names], matrix)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return 100 * float(values.mean()) if values.size else float("nan")


def _names(quality: PanopticQuality) -> list[str]:
    """Names of the categories; with the id where two share a name."""
    count = Counter(c["name"] for c in quality.categories)
    return [
        c["name"] if count[c["name"]] == 1 else f"{c['name']} ({c['id']})"
        for c in quality.categories
    ]


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    return tabulate(
        rows, headers, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center"
    )


def _without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in record.items()}
