"""Which segments match, and how many of each category did; for some images at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .pixels import NEAR, ON_GT, ON_PRED

__all__ = ["SIZES", "Batch", "Counts", "Overlaps"]

SIZES = ("small", "medium", "large")
_SIZE_LIMITS = (32**2, 96**2)  # pixels, as for COCO's APs, APm, APl


class Counts(NamedTuple):
    """Segments by category, (..., C): the matched ones' sum of IoU, and how many are what.

    Attributes:
        iou (ndarray): float64, the sum of the IoU of the matched segments.
        tp, fp, fn (ndarray): int64, matched, wrongly predicted and missed segments.
    """

    iou: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @classmethod
    def zeros(cls, *shape: int) -> Counts:
        """No segments at all."""
        return cls(np.zeros(shape), *(np.zeros(shape, dtype=np.int64) for _ in range(3)))

    def add(self, other: Counts) -> None:
        """Add others of the same shape, in place."""
        for mine, more in zip(self, other, strict=True):
            mine += more

    def sum(self, axis: int = 0) -> Counts:
        """Counts of all entries of an axis together."""
        return Counts(*(values.sum(axis=axis) for values in self))

    def quality(self) -> dict[str, np.ndarray]:
        """PQ, SQ and RQ (..., C) in [0, 1]; NaN where a category has no segment at all."""
        iou, tp, fp, fn = self
        weight = tp + 0.5 * fp + 0.5 * fn
        with np.errstate(invalid="ignore"):
            return {
                "PQ": iou / weight,
                "SQ": np.where(weight > 0, iou / np.maximum(tp, 1), np.nan),
                "RQ": tp / weight,
            }


class Overlaps(NamedTuple):
    """The segments of one image, and which of them lie on each other.

    Attributes:
        gt_cats (ndarray): (G + 2,) index of each segment's category; C for the last two, which
            stand for void and for ids that are of no segment.
        crowd (ndarray): (G + 2,) bool.
        pred_cats (ndarray): (P + 1,) likewise; the last is void.
        rows, columns (ndarray): (K,) indices into them, of the pairs that share pixels.
        pixels (ndarray): (F, K), how many, by flag; see :func:`~.pixels.boundary_flags`.
    """

    gt_cats: np.ndarray
    crowd: np.ndarray
    pred_cats: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    pixels: np.ndarray


class Batch:
    """What the segments of some images are to each other, all in one numbering.

    NumPy's functions cost more to call than an image's hundred pairs of segments take: the pairs of
    many images are looked at by one call.
    """

    def __init__(self, images: Sequence[Overlaps], num_categories: int):
        """Number the segments of N ≥ 1 images over C categories."""
        self._shape = len(images), num_categories
        self._gt_cats, gt_image, gt_first = _join([i.gt_cats for i in images])
        self._pred_cats, pred_image, pred_first = _join([i.pred_cats for i in images])
        self._crowd = np.concatenate([i.crowd for i in images])
        row, self._image, _ = _join([i.rows for i in images])
        self._row = row + gt_first[self._image]
        self._column = np.concatenate([i.columns for i in images]) + pred_first[self._image]
        self._pixels = np.concatenate([i.pixels for i in images], axis=1)
        self._all = self._pixels.sum(axis=0)
        void = np.append(gt_first[1:], len(self._gt_cats)) - 2
        self._on_void = void[self._image] == self._row
        gt_cats, pred_cats = self._gt_cats[self._row], self._pred_cats[self._column]
        self._pred_cat = pred_cats
        self._gt_cat = np.where(self._crowd[self._row], num_categories, gt_cats)  # else void
        self._same = (self._gt_cat == pred_cats) & (pred_cats < num_categories)
        gt_area, pred_area = self._of_gt(self._all), self._of_pred(self._all)
        self._gt_cell = self._cells(gt_image, gt_area, self._gt_cats)
        self._pred_cell = self._cells(pred_image, pred_area, self._pred_cats)
        # A prediction is forgiven if most of it lies on void and on a crowd of its own category.
        crowds = np.flatnonzero(self._crowd)
        of_category = np.full((len(images), num_categories + 1), -1)
        of_category[gt_image[crowds], self._gt_cats[crowds]] = crowds  # of several, the last
        excused = self._on_void | (of_category[self._image, pred_cats] == self._row)
        self._forgiven = 2 * self._of_pred(self._all * excused) > pred_area
        self._iou = self._iou_of(self._all, self._all, self._all)

    def segments(self) -> Counts:
        """Counts (N, 3, C) by size. False positives have their own size, others the truth's."""
        return self._count(self._iou)

    def boundaries(self) -> Counts:
        """Counts (N, 3, C) where the IoU is at most that of the segments' boundaries."""
        flags = np.arange(len(self._pixels))
        on_gt, on_pred, on_both = (
            self._pixels[flags & bits == bits].sum(axis=0)
            for bits in (ON_GT, ON_PRED, ON_GT | ON_PRED)
        )
        return self._count(np.minimum(self._iou, self._iou_of(on_both, on_gt, on_pred)))

    def confusion(self) -> np.ndarray:
        """Pixels (2, C + 1, C + 1) int64 away from and near boundaries; the last are void."""
        side = self._shape[1] + 1
        cell = self._gt_cat * side + self._pred_cat
        near = self._pixels[NEAR::2].sum(axis=0)
        both = [np.bincount(cell, p, side * side) for p in (self._all - near, near)]
        return np.reshape(both, (2, side, side)).astype(np.int64)

    def areas(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (N, C) of a category in the ground truth, in the prediction, and in both.

        Void and crowds of the ground truth are left out of all three.
        """
        num_categories = self._shape[1]
        pixels = self._all * (self._gt_cat < num_categories)
        return (
            self._by_category(self._gt_cat, pixels),
            self._by_category(self._pred_cat, pixels),
            self._by_category(self._pred_cat, pixels * self._same),
        )

    def _by_category(self, categories: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        images, side = self._shape[0], self._shape[1] + 1
        sums = np.bincount(self._image * side + categories, pixels, images * side)
        return sums.reshape(images, side)[:, :-1]

    def _of_gt(self, pixels: np.ndarray) -> np.ndarray:
        return np.bincount(self._row, pixels, len(self._gt_cats))

    def _of_pred(self, pixels: np.ndarray) -> np.ndarray:
        return np.bincount(self._column, pixels, len(self._pred_cats))

    def _iou_of(self, on_both: np.ndarray, on_gt: np.ndarray, on_pred: np.ndarray) -> np.ndarray:
        """IoU (K,) of each pair, whose pixels on void do not count."""
        gt_area, pred_area = self._of_gt(on_gt), self._of_pred(on_pred * ~self._on_void)
        union = gt_area[self._row] + pred_area[self._column] - on_both
        return on_both / np.maximum(union, 1)

    def _count(self, iou: np.ndarray) -> Counts:
        matched = np.flatnonzero(self._same & (iou > 0.5))
        missed, wrong = ~self._crowd, ~self._forgiven
        missed[self._row[matched]] = wrong[self._column[matched]] = False
        hits = self._gt_cell[self._row[matched]]
        return Counts(
            self._table(hits, iou[matched]),
            self._table(hits),
            self._table(self._pred_cell[wrong]),
            self._table(self._gt_cell[missed]),
        )

    def _cells(self, image: np.ndarray, area: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Where in a flat (N, 3, C + 1) table each segment counts."""
        size = np.digitize(area, _SIZE_LIMITS)
        return (image * len(SIZES) + size) * (self._shape[1] + 1) + category

    def _table(self, cells: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        shape = self._shape[0], len(SIZES), self._shape[1] + 1
        counts = np.bincount(cells, weights, shape[0] * shape[1] * shape[2])
        return counts.reshape(shape)[..., :-1]


def _join(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All parts in a row, the index of the part that each element is of, and where parts begin."""
    sizes = np.array([len(part) for part in parts])
    index = np.repeat(np.arange(len(parts)), sizes)
    return np.concatenate(parts), index, np.cumsum(sizes) - sizes
