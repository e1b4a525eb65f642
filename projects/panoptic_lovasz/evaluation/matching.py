"""Which segments of an image match, and how many of each category did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .pixels import ON_GT, ON_PRED

__all__ = ["SIZES", "Counts", "Match", "boundary_iou"]

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

    def sum(self) -> Counts:
        """Counts (C,) of all rows of (S, C) together."""
        return Counts(*(values.sum(axis=0) for values in self))

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


class Match:
    """What the segments of one image are to each other."""

    def __init__(
        self, pixels: np.ndarray, gt_cats: np.ndarray, pred_cats: np.ndarray, crowd: np.ndarray
    ):
        """Take (G + 2, P + 1) pixels, whose last rows are void and other ids, and categories."""
        intersection, void = pixels[:-2, :-1], pixels[-2, :-1]
        gt_area, pred_area = pixels[:-2].sum(axis=1), pixels[:, :-1].sum(axis=0)
        union = np.maximum(pred_area - void + gt_area[:, None] - intersection, 1)
        self.iou = intersection / union
        self._gt_cats, self._pred_cats, self._crowd = gt_cats, pred_cats, crowd
        self._same = (gt_cats[:, None] == pred_cats) & ~crowd[:, None]
        self._gt_size = np.digitize(gt_area, _SIZE_LIMITS)
        self._pred_size = np.digitize(pred_area, _SIZE_LIMITS)
        # A prediction is forgiven if most of it lies on void and on a crowd of its own category.
        crowds = {cat: row for row, cat in enumerate(gt_cats.tolist()) if crowd[row]}
        excused = void.copy()
        for i, cat in enumerate(pred_cats.tolist() if crowds else ()):
            if cat in crowds:
                excused[i] += intersection[crowds[cat], i]
        self._forgiven = 2 * excused > pred_area

    def count(self, num_categories: int, iou: np.ndarray) -> Counts:
        """Counts (3, C) by size, given the IoU (G, P) that has to be above 0.5 for a match."""
        matched = self._same & (iou > 0.5)
        row, column = np.nonzero(matched)
        missed = ~matched.any(axis=1) & ~self._crowd
        wrong = ~matched.any(axis=0) & ~self._forgiven
        counts = Counts.zeros(len(SIZES), num_categories)
        hits = self._gt_size[row], self._gt_cats[row]
        np.add.at(counts.tp, hits, 1)
        np.add.at(counts.iou, hits, iou[row, column])
        np.add.at(counts.fn, (self._gt_size[missed], self._gt_cats[missed]), 1)
        np.add.at(counts.fp, (self._pred_size[wrong], self._pred_cats[wrong]), 1)
        return counts


def boundary_iou(joint: np.ndarray) -> np.ndarray:
    """IoU (G, P) of the segments' boundaries, from (8, G + 2, P + 1) pixels by flag."""
    bits = np.arange(len(joint))
    on_gt = joint[bits & ON_GT != 0].sum(axis=0)
    on_pred = joint[bits & ON_PRED != 0].sum(axis=0)
    on_both = joint[bits & (ON_GT | ON_PRED) == ON_GT | ON_PRED].sum(axis=0)
    intersection, void = on_both[:-2, :-1], on_pred[-2, :-1]
    gt_area, pred_area = on_gt[:-2].sum(axis=1), on_pred[:, :-1].sum(axis=0)
    return intersection / np.maximum(pred_area - void + gt_area[:, None] - intersection, 1)
