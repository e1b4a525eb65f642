"""What a :class:`PanopticQuality` says: metrics by name, tables, JSON and CSV files."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from ..files import write_atomically
from .panoptic_quality import SIZES, PanopticQuality

__all__ = ["format_report", "panoptic_metrics", "per_class_rows", "write_report"]


def panoptic_metrics(quality: PanopticQuality) -> dict[str, float]:
    """Metrics in percent; NaN where there is nothing to average.

    Returns:
        ``PQ``, ``SQ``, ``RQ``: averages over the categories that have a segment, in the ground
        truth or wrongly predicted; ``_th`` over things, ``_st`` over stuff.
        ``PQ_small``, ``PQ_medium``, ``PQ_large``: PQ over segments of an area below 32², below
        96², and above, in pixels.
        ``mIoU``, ``mIoU_th``, ``mIoU_st``: pixel IoU of the panoptic output over all categories,
        things, stuff; ``mIoU_st_interior`` leaves out a band around ground-truth boundaries.
        ``PQ-<name>``: PQ of a category.
    """
    isthing = np.array([c["isthing"] for c in quality.categories], dtype=bool)
    kinds = {"": np.ones_like(isthing), "_th": isthing, "_st": ~isthing}
    values = quality.per_class()
    metrics = {m + k: _mean(values[m][chosen]) for k, chosen in kinds.items() for m in values}
    for n, size in enumerate(SIZES):
        metrics[f"PQ_{size}"] = _mean(quality.per_class(n)["PQ"])
    iou = quality.iou_per_class()
    metrics |= {"mIoU" + k: _mean(iou[chosen]) for k, chosen in kinds.items()}
    metrics["mIoU_st_interior"] = _mean(quality.iou_per_class(near_boundaries=False)[~isthing])
    pq = (100 * values["PQ"]).tolist()
    return metrics | {f"PQ-{n}": v for n, v in zip(_names(quality), pq, strict=True)}


def per_class_rows(quality: PanopticQuality) -> list[dict[str, Any]]:
    """One row per category: its id, name, isthing, metrics in percent, and counts of segments."""
    iou, interior = quality.iou_per_class(), quality.iou_per_class(near_boundaries=False)
    columns = {
        **quality.per_class(),
        **{f"PQ_{size}": quality.per_class(n)["PQ"] for n, size in enumerate(SIZES)},
        "IoU": iou,
        "IoU_interior": interior,
    }
    counts = {"TP": quality.tp.sum(0), "FP": quality.fp.sum(0), "FN": quality.fn.sum(0)}
    return [
        {
            **category,
            **{key: 100 * float(values[i]) for key, values in columns.items()},
            **{key: int(values[i]) for key, values in counts.items()},
        }
        for i, category in enumerate(quality.categories)
    ]


def format_report(quality: PanopticQuality) -> str:
    """Tables of the averages and of the categories that have a segment."""
    metrics, rows = panoptic_metrics(quality), per_class_rows(quality)
    seen = [r for r in rows if r["TP"] + r["FP"] + r["FN"]]
    summary = [
        [label, *(metrics[m + key] for m in ("PQ", "SQ", "RQ", "mIoU")), len(chosen)]
        for label, key, chosen in (
            ("All", "", seen),
            ("Things", "_th", [r for r in seen if r["isthing"]]),
            ("Stuff", "_st", [r for r in seen if not r["isthing"]]),
        )
    ]
    extra = ["PQ_small", "PQ_medium", "PQ_large", "mIoU_st_interior"]
    columns = ["PQ", "SQ", "RQ", "IoU", "TP", "FP", "FN"]
    tables = {
        "Panoptic Evaluation Results:": _table(
            summary, ["", "PQ", "SQ", "RQ", "mIoU", "#categories"]
        ),
        "By size, and away from boundaries:": _table([[metrics[key] for key in extra]], extra),
        "Per-category panoptic quality:": _table(
            [[r["name"], *(r[c] for c in columns)] for r in seen], ["category", *columns]
        ),
    }
    return "\n\n".join(f"{title}\n{table}" for title, table in tables.items())


def write_report(quality: PanopticQuality, folder: Path) -> None:
    """Write ``panoptic_quality.json``, ``panoptic_quality.csv`` and ``confusion_matrix.csv``.

    The CSV has :func:`per_class_rows`, the JSON these and :func:`panoptic_metrics`, NaN being
    empty or null. The matrix has pixels: rows are the ground truth, columns the prediction, both
    end in void.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_without_nan(row) for row in per_class_rows(quality)]
    content = {
        "num_images": quality.num_images,
        "metrics": _without_nan(panoptic_metrics(quality)),
        "per_class": rows,
    }
    _write(folder / "panoptic_quality.json", json.dumps(content, indent=1))
    _write(folder / "panoptic_quality.csv", _csv([list(rows[0]), *(r.values() for r in rows)]))
    names = [*_names(quality), "void"]
    pixels = quality.confusion.sum(axis=0).tolist()
    matrix = [[name, *row] for name, row in zip(names, pixels, strict=True)]
    _write(folder / "confusion_matrix.csv", _csv([["ground truth", *names], *matrix]))


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


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in record.items()}


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda f: f.write(text.encode()))
