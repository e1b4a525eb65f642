"""Panoptic quality, accumulated image by image in memory, in plain NumPy.

PQ is defined in Kirillov et al., "Panoptic Segmentation" (CVPR 2019), section 4; the rules for
void pixels and crowd segments are those of the COCO panoptic API (``pq_compute``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.id_map import VOID
from ..errors import DatasetError

__all__ = ["SIZES", "PanopticQuality", "find_positions"]

SIZES = ("small", "medium", "large")
_SIZE_LIMITS = (32**2, 96**2)  # pixels, as for COCO's APs, APm, APl
_BOUNDARY_RATIO = 0.005  # width of the band around boundaries, in image diagonals

Segment = Mapping[str, Any]


class PanopticQuality:
    """Accumulates panoptic quality, its split by segment size, and a pixel confusion matrix.

    The state is a few arrays over the categories: its size does not depend on the number of images,
    it pickles, and two accumulators of different images :meth:`merge` into one.

    Attributes:
        categories (list[dict]): ``id``, ``name``, ``isthing`` of each of the C categories.
        iou (ndarray): (3, C) float64, the sum of the IoU of the matched segments; as for the counts
            below, the first index is the size in :data:`SIZES`. A ground-truth segment counts by
            its own area, a false positive by that of the prediction.
        tp, fp, fn (ndarray): (3, C) int64, matched, wrongly predicted and missed segments.
        confusion (ndarray): (2, C + 1, C + 1) int64 pixels by (ground truth, prediction), the last
            row and column being void: ``[0]`` away from, ``[1]`` near the boundaries between
            ground-truth segments (4-connected pixels of two segments, widened to 0.5 % of the
            image's diagonal on either side). Crowd segments count as void here.
        num_images (int): the number of images added.
    """

    def __init__(self, categories: Sequence[Segment], boundaries: bool = True):
        """Start from no images.

        Args:
            categories: COCO panoptic ``categories``, dicts of ``id``, ``name``, ``isthing``.
            boundaries: tell pixels near ground-truth boundaries from others, which takes two fifths
                of the time; if not, all count as away from them.

        Raises:
            DatasetError: an id is declared twice.
        """
        self.boundaries = boundaries
        self.categories: list[dict[str, Any]] = [
            {"id": int(c["id"]), "name": str(c["name"]), "isthing": bool(c["isthing"])}
            for c in categories
        ]
        self._index = {c["id"]: i for i, c in enumerate(self.categories)}
        if len(self._index) != len(self.categories):
            raise DatasetError("categories: the same id is declared more than once")
        shape = (len(SIZES), len(self.categories))
        self.iou = np.zeros(shape, dtype=np.float64)
        self.tp, self.fp, self.fn = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        self.confusion = np.zeros((2, shape[1] + 1, shape[1] + 1), dtype=np.int64)
        self.num_images = 0

    def add(
        self,
        gt_ids: np.ndarray,
        gt_segments: Sequence[Segment],
        pred_ids: np.ndarray,
        pred_segments: Sequence[Segment],
        *,
        name: str = "image",
    ) -> None:
        """Add one image.

        Args:
            gt_ids: (H, W) integers ≥ 0, the id of each pixel's segment; 0 is void. Ids that
                ``gt_segments`` lacks belong to no segment, yet are not void (as in the reference).
            gt_segments: dicts of ``id``, ``category_id`` and ``iscrowd`` (0 if absent). Areas are
                counted in ``gt_ids``; a stated ``area`` is not used.
            pred_ids, pred_segments: the prediction, likewise; its segments have no crowds.
            name: what error messages call the image.

        Raises:
            DatasetError: sizes differ; a segment's id is not positive or used twice; a category is
                unknown; a predicted id is in the map and not in the segments, or the reverse.
        """
        gt_ids, pred_ids = _as_ids(gt_ids, f"{name}: ground truth"), _as_ids(pred_ids, name)
        if gt_ids.shape != pred_ids.shape:
            raise DatasetError(
                f"{name}: the prediction is {_size(pred_ids)} pixels and the ground truth "
                f"{_size(gt_ids)}; both must have the size of the image"
            )
        gt_seg_ids, gt_cats = self._table(gt_segments, f"{name}: ground truth")
        pred_seg_ids, pred_cats = self._table(pred_segments, f"{name}: prediction")

        near = _near_boundary(gt_ids) if self.boundaries else None
        joint = _joint_histogram(gt_ids, pred_ids, gt_seg_ids, pred_seg_ids, near)
        pixels = joint.sum(axis=0)
        if pixels[:, -1].any() or not pixels[:, :-2].any(axis=0).all():
            raise _segments_mismatch(pred_ids, pred_seg_ids, name)
        crowd = np.array([bool(s.get("iscrowd", 0)) for s in gt_segments], dtype=bool)
        self._match(pixels[:, :-1], gt_cats, pred_cats, crowd)

        void = len(self.categories)
        rows = np.concatenate([np.where(crowd, void, gt_cats), [void, void]])
        cells = np.ix_(rows, np.append(pred_cats, void))
        for confusion, counts in zip(self.confusion, joint[:, :, :-1], strict=True):
            np.add.at(confusion, cells, counts)
        self.num_images += 1

    def merge(self, other: PanopticQuality) -> None:
        """Add the images of another accumulator.

        Raises:
            ValueError: the other has other categories or settings.
        """
        if (self.categories, self.boundaries) != (other.categories, other.boundaries):
            raise ValueError("cannot merge panoptic quality over different categories")
        for field in ("iou", "tp", "fp", "fn", "confusion"):
            getattr(self, field).__iadd__(getattr(other, field))
        self.num_images += other.num_images

    def per_class(self, size: int | slice = slice(None)) -> dict[str, np.ndarray]:
        """PQ, SQ and RQ (C,) of each category in [0, 1]; NaN where it has no segment at all.

        Args:
            size: index or slice into :data:`SIZES`; all of them by default.
        """
        iou, tp, fp, fn = (
            np.atleast_2d(x[size]).sum(axis=0) for x in (self.iou, self.tp, self.fp, self.fn)
        )
        weight = tp + 0.5 * fp + 0.5 * fn
        with np.errstate(invalid="ignore"):
            return {
                "PQ": iou / weight,
                "SQ": np.where(weight > 0, iou / np.maximum(tp, 1), np.nan),
                "RQ": tp / weight,
            }

    def iou_per_class(self, near_boundaries: bool = True) -> np.ndarray:
        """IoU (C,) over pixels in [0, 1]; NaN where a category is in neither map.

        Void and crowd pixels of the ground truth are left out; predicting void there is an error.

        Args:
            near_boundaries: False leaves out the band around ground-truth boundaries.

        Raises:
            ValueError: near_boundaries is False, and boundaries were not told apart.
        """
        if not (near_boundaries or self.boundaries):
            raise ValueError("PanopticQuality(boundaries=False) has not looked at boundaries")
        confusion = (self.confusion.sum(axis=0) if near_boundaries else self.confusion[0])[:-1]
        intersection = np.diagonal(confusion)
        union = confusion.sum(axis=1) + confusion.sum(axis=0)[:-1] - intersection
        with np.errstate(invalid="ignore"):
            return intersection / union

    def _table(self, segments: Sequence[Segment], where: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) and category indices (N,) of a list of segments."""
        for s in segments:
            if not isinstance(s, Mapping) or not {"id", "category_id"} <= s.keys():
                raise DatasetError(f"{where}: a segment needs 'id' and 'category_id'; found {s}")
        ids = np.array([s["id"] for s in segments], dtype=np.int64)
        if len(set(ids.tolist())) != len(ids) or (ids <= VOID).any():
            raise DatasetError(
                f"{where}: segment ids must be positive and differ from each other; "
                f"found {sorted(ids.tolist())}"
            )
        unknown = [s for s in segments if s["category_id"] not in self._index]
        if unknown:
            raise DatasetError(
                f"{where}: segment {unknown[0]['id']} has category_id "
                f"{unknown[0]['category_id']}, which the ground truth's categories do not declare"
            )
        cats = np.array([self._index[s["category_id"]] for s in segments], dtype=np.int64)
        return ids, cats

    def _match(
        self, pixels: np.ndarray, gt_cats: np.ndarray, pred_cats: np.ndarray, crowd: np.ndarray
    ) -> None:
        """Count one image's segments; pixels is (G + 2, P + 1), the rows ending in void, other."""
        intersection, void = pixels[:-2, :-1], pixels[-2, :-1]
        gt_area, pred_area = pixels[:-2].sum(axis=1), pixels[:, :-1].sum(axis=0)
        union = np.maximum(pred_area - void + gt_area[:, None] - intersection, 1)
        iou = intersection / union
        matched = (iou > 0.5) & (gt_cats[:, None] == pred_cats) & ~crowd[:, None]

        # A prediction is forgiven if most of it lies on void and on a crowd of its own category.
        crowds = {cat: row for row, cat in enumerate(gt_cats.tolist()) if crowd[row]}
        forgiven = void.copy()
        for i, cat in enumerate(pred_cats.tolist()):
            if cat in crowds:
                forgiven[i] += intersection[crowds[cat], i]

        gt_size, pred_size = (
            np.digitize(gt_area, _SIZE_LIMITS),
            np.digitize(pred_area, _SIZE_LIMITS),
        )
        row, column = np.nonzero(matched)
        np.add.at(self.tp, (gt_size[row], gt_cats[row]), 1)
        np.add.at(self.iou, (gt_size[row], gt_cats[row]), iou[row, column])
        missed = ~matched.any(axis=1) & ~crowd
        np.add.at(self.fn, (gt_size[missed], gt_cats[missed]), 1)
        wrong = ~matched.any(axis=0) & (2 * forgiven <= pred_area)
        np.add.at(self.fp, (pred_size[wrong], pred_cats[wrong]), 1)


def _joint_histogram(
    gt_ids: np.ndarray,
    pred_ids: np.ndarray,
    gt_seg_ids: np.ndarray,
    pred_seg_ids: np.ndarray,
    near: np.ndarray | None,
) -> np.ndarray:
    """Pixels (2, G + 2, P + 2) int64 of each pair of segments, outside and inside the mask `near`.

    The last two rows and columns are void and ids that the segments lack. Label maps are piecewise
    constant, so runs of equal pairs are counted instead of pixels.
    """
    gt, pred = gt_ids.ravel(), pred_ids.ravel()
    change = gt[1:] != gt[:-1]
    change |= pred[1:] != pred[:-1]
    starts = np.append(0, np.flatnonzero(change) + 1)
    row, column = find_positions(gt_seg_ids, gt[starts]), find_positions(pred_seg_ids, pred[starts])
    shape = (len(gt_seg_ids) + 2, len(pred_seg_ids) + 2)
    pair = row * shape[1] + column

    def count(pixels: np.ndarray) -> np.ndarray:
        """Sum the pixels of each run by the run's pair; exact in float64 up to 2^53."""
        return np.bincount(pair, pixels, minlength=shape[0] * shape[1]).reshape(shape)

    joint = np.zeros((2, *shape), dtype=np.int64)
    joint[0] = count(np.diff(starts, append=gt.size))
    if near is not None:
        joint[1] = count(np.add.reduceat(near.ravel(), starts, dtype=np.int32))
        joint[0] -= joint[1]
    return joint


def find_positions(seg_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where in seg_ids (N,) each id is: N for void, N + 1 for an id that is not there."""
    known = np.append(seg_ids, VOID)
    order = np.argsort(known)
    known = known[order]
    index = np.minimum(np.searchsorted(known, ids), len(seg_ids))
    return np.where(known[index] == ids, order[index], len(known))


def _near_boundary(ids: np.ndarray) -> np.ndarray:
    """Mask (H, W) of pixels that touch another segment, widened to 0.5 % of the diagonal."""
    band = np.zeros(ids.shape, dtype=bool)
    for lines, mask in ((ids, band), (ids.T, band.T)):
        edges = lines[1:] != lines[:-1]
        mask[1:] |= edges
        mask[:-1] |= edges
    radius = max(1, round(_BOUNDARY_RATIO * float(np.hypot(*ids.shape)))) - 1
    for mask in (band, band.T):
        reach = 0
        while reach < min(radius, len(mask) - 1):
            step = min(reach + 1, radius - reach)  # wider would leave gaps at the image's edges
            mask[step:] |= mask[:-step]
            mask[:-step] |= mask[step:]
            reach += step
    return band


def _as_ids(ids: np.ndarray, where: str) -> np.ndarray:
    ids = np.ascontiguousarray(ids)
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise DatasetError(
            f"{where}: a panoptic map must be (H, W) integers; got {ids.shape} {ids.dtype}"
        )
    return ids


def _segments_mismatch(pred_ids: np.ndarray, seg_ids: np.ndarray, name: str) -> DatasetError:
    in_map, in_segments = set(np.unique(pred_ids).tolist()) - {VOID}, set(seg_ids.tolist())
    return DatasetError(
        f"{name}: the predicted map and its segments_info must have the same segment ids; only in "
        f"the map: {sorted(in_map - in_segments)}, only in segments_info: "
        f"{sorted(in_segments - in_map)}"
    )


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[1]}x{ids.shape[0]}"
