"""What single images contribute to an evaluation: quality per image, and how sure the whole is."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from ..errors import DatasetError
from .matching import Counts

__all__ = [
    "COUNTS_FILE",
    "ImageCounts",
    "in_pairs",
    "intervals",
    "overall",
    "per_image",
    "read_counts",
    "write_counts",
]

COUNTS_FILE = "image_counts.npz"

WORST = 0.1  # share of the images that the worst are
_SAMPLES = 1000  # bootstrap samples
_AT_ONCE = 100  # of them, which bounds the memory

_FIELDS = ("iou", "tp", "fp", "fn", "intersection", "union")


class ImageCounts(NamedTuple):
    """One image's share of an evaluation.

    Attributes:
        name (str): of the image.
        categories (ndarray): (K,) indices of the categories that are in either of its maps.
        values (ndarray): (K, 6) float64: the sum of the matched segments' IoU, the numbers of
            matched, false and missed segments, and pixels in the intersection and in the union.
        in_truth (ndarray): (K,) bool, whether the ground truth has pixels of the category.
    """

    name: str
    categories: np.ndarray
    values: np.ndarray
    in_truth: np.ndarray

    @classmethod
    def of_batch(
        cls,
        names: Sequence[str],
        segments: Counts,
        truth: np.ndarray,
        predicted: np.ndarray,
        intersection: np.ndarray,
    ) -> list[ImageCounts]:
        """Collect the counts of N images over C categories.

        Args:
            names: of the images.
            segments: (N, C).
            truth, predicted, intersection: (N, C) pixels in the maps and in both.
        """
        values = np.stack([*segments, intersection, truth + predicted - intersection], axis=-1)
        present = np.asarray(values[..., 1:].any(axis=-1))
        return [
            cls(name, np.flatnonzero(p), v[p], t[p] > 0)
            for name, p, v, t in zip(names, present, values, truth, strict=True)
        ]

    def pq(self) -> float:
        """Mean PQ in [0, 1] over the categories with a segment in this image; NaN without any."""
        return float(_mean(_pq(self.values)))

    def miou(self) -> float:
        """Mean IoU in [0, 1] over the categories in this image's ground truth; NaN without any."""
        return float(_mean(_iou(self.values[self.in_truth])))


def per_image(images: Sequence[ImageCounts]) -> dict[str, float]:
    """mIoU of single images, in [0, 1]: of all, and of the worst tenth.

    Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation" (NeurIPS 2023): mIoU^I
    and, at the quantile of 10 %, mIoU^Iq. Every image counts alike, whatever its size, and
    a category counts in the images whose ground truth has it.
    """
    values = np.sort([v for image in images if not np.isnan(v := image.miou())])
    worst = values[: max(1, int(WORST * len(values)))]
    return {"mIoU_image": float(_mean(values)), "mIoU_worst10": float(_mean(worst))}


def intervals(
    *evaluations: Sequence[ImageCounts], num_samples: int = _SAMPLES
) -> dict[str, tuple[float, float]]:
    """95 % intervals of PQ and mIoU in [0, 1], by bootstrap over the images.

    Images are drawn with replacement, and the percentiles are those of the metric over the drawn
    images (Efron 1979). They tell what another sample of images would have given, not what another
    training would. NaN for less than two images.

    Args:
        evaluations: one, for its own intervals; or two of the same images in the same order, for
            those of the first minus the second, which the same drawings evaluate both.
        num_samples: number of drawings.
    """
    count = len(evaluations[0])
    if count < 2:
        return dict.fromkeys(("PQ", "mIoU"), (np.nan, np.nan))
    rng = np.random.default_rng(0)  # the same evaluation has the same intervals ...
    order = np.argsort([image.name for image in evaluations[0]])  # ... by however many processes
    tables = [_table(images)[order] for images in evaluations]
    drawn: list[np.ndarray] = []
    for first in range(0, num_samples, _AT_ONCE):
        size = min(_AT_ONCE, num_samples - first)
        times = rng.multinomial(count, np.full(count, 1 / count), size).astype(np.float64)
        sums = [(times @ t.reshape(count, -1)).reshape(size, *t.shape[1:]) for t in tables]
        metrics = [_metrics(s) for s in sums]
        drawn.append(metrics[0] if len(metrics) == 1 else metrics[0] - metrics[1])
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    return {m: (float(low[i]), float(high[i])) for i, m in enumerate(("PQ", "mIoU"))}


def overall(images: Sequence[ImageCounts]) -> dict[str, float]:
    """PQ and mIoU in [0, 1] of all images together."""
    return dict(zip(("PQ", "mIoU"), _metrics(_table(images).sum(axis=0)).tolist(), strict=True))


def in_pairs(
    first: Sequence[ImageCounts], second: Sequence[ImageCounts]
) -> tuple[list[ImageCounts], list[ImageCounts]]:
    """Two evaluations of the same images, in the same order.

    Images are known by their path below the folder that an evaluation's images have in common,
    without suffix.

    Raises:
        DatasetError: they are not of the same images, or images differ in their suffix alone.
    """
    a, b = _by_name(first), _by_name(second)
    if a.keys() != b.keys():
        raise DatasetError(
            f"two evaluations can be compared on the same images only; {len(a.keys() ^ b.keys())} "
            f"are in one of them, of {len(first)} and {len(second)}"
        )
    return list(a.values()), [b[name] for name in a]


def _by_name(images: Sequence[ImageCounts]) -> dict[str, ImageCounts]:
    # absolute, since some may be and others not
    stems = [os.path.abspath(os.path.splitext(image.name)[0]) for image in images]
    root = os.path.commonpath([os.path.dirname(stem) for stem in stems]) if stems else ""
    names = [os.path.relpath(stem, root) for stem in stems]
    by_name = dict(zip(names, images, strict=True))
    if len(by_name) < len(images):
        raise DatasetError(
            f"{len(images) - len(by_name)} of {len(images)} evaluated images have the path of "
            "another but for the suffix, so they cannot be told apart for a comparison"
        )
    return by_name


def write_counts(file: BinaryIO, images: Sequence[ImageCounts]) -> None:
    """Write what images contributed, as NumPy's npz."""
    names, categories, values, in_truth = zip(*images, strict=True) if images else ((),) * 4
    np.savez_compressed(
        file,
        names=np.array(names, dtype=str),
        sizes=np.array([len(c) for c in categories], dtype=np.int64),
        categories=np.concatenate([*categories, np.zeros(0, np.int64)]),
        values=np.concatenate([*values, np.zeros((0, len(_FIELDS)))]),
        in_truth=np.concatenate([*in_truth, np.zeros(0, bool)]),
    )


def read_counts(file: str | os.PathLike) -> list[ImageCounts]:
    """Read what :func:`write_counts` wrote.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            at = np.cumsum(content["sizes"])[:-1]
            parts = [np.split(content[k], at) for k in ("categories", "values", "in_truth")]
            names = content["names"].tolist()
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{os.fspath(file)} cannot be read: {error}") from error
    return [ImageCounts(*image) for image in zip(names, *parts, strict=True)] if names else []


def _table(images: Sequence[ImageCounts]) -> np.ndarray:
    """Values (N, K, 6) of all images by category, of those that any image has."""
    present = np.unique(np.concatenate([image.categories for image in images]))
    table = np.zeros((len(images), len(present), len(_FIELDS)))
    for row, image in zip(table, images, strict=True):
        row[np.searchsorted(present, image.categories)] = image.values
    return table


def _metrics(values: np.ndarray) -> np.ndarray:
    """PQ and mIoU (..., 2) from values (..., K, 6)."""
    return np.stack([_mean(_pq(values)), _mean(_iou(values))], axis=-1)


def _pq(values: np.ndarray) -> np.ndarray:
    return Counts(*np.moveaxis(values[..., :4], -1, 0)).quality()["PQ"]


def _iou(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return values[..., 4] / values[..., 5]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)
