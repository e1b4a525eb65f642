"""Panoptic quality, accumulated image by image in memory, in plain NumPy.

PQ is defined in Kirillov et al., "Panoptic Segmentation" (CVPR 2019), section 4; the rules for
void pixels and crowd segments are those of the COCO panoptic API (``pq_compute``). Boundary PQ is
that of Cheng et al., "Boundary IoU" (CVPR 2021), section 6, as their ``boundary-iou-api`` has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.id_map import VOID, rgb_to_id
from ..errors import DatasetError
from .images import ImageCounts
from .matching import SIZES, Batch, Counts, Overlaps
from .pixels import boundary_flags, count_pairs

__all__ = ["PanopticQuality"]

Segment = Mapping[str, Any]
Image = tuple[str, np.ndarray, Sequence[Segment], np.ndarray, Sequence[Segment]]


class PanopticQuality:
    """Accumulates panoptic quality, its split by segment size, and a pixel confusion matrix.

    The state is a few arrays over the categories and, per image, some numbers for each category in
    it; it pickles, and two accumulators of different images :meth:`merge` into one.

    Attributes:
        categories (list[dict]): ``id``, ``name``, ``isthing`` of each of the C categories.
        segments (Counts): (3, C), the first index being the size in :data:`SIZES`. A ground-truth
            segment counts by its own area, a false positive by that of the prediction.
        boundary (Counts): (C,), the same for Boundary PQ, where the IoU of two segments is the
            smaller one of their IoU and the IoU of their boundaries; zero without ``boundaries``.
        confusion (ndarray): (2, C + 1, C + 1) int64 pixels by (ground truth, prediction), the last
            row and column being void: ``[0]`` away from, ``[1]`` near the boundaries between
            ground-truth segments (4-connected pixels of two segments, widened to 0.5 % of the
            image's diagonal on either side). Crowd segments count as void here.
        images (list[ImageCounts]): what each image contributed.
    """

    def __init__(self, categories: Sequence[Segment], boundaries: bool = True):
        """Start from no images.

        Args:
            categories: COCO panoptic ``categories``, dicts of ``id``, ``name``, ``isthing``.
            boundaries: look at boundaries, too, for Boundary PQ and to tell pixels near
                ground-truth boundaries from others, which takes most of the time.

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
            ids = [c["id"] for c in self.categories]
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise DatasetError(f"categories: the ids {twice} are declared more than once")
        count = len(self.categories)
        self.segments = Counts.zeros(len(SIZES), count)
        self.boundary = Counts.zeros(count)
        self.confusion = np.zeros((2, count + 1, count + 1), dtype=np.int64)
        self.images: list[ImageCounts] = []

    @property
    def num_images(self) -> int:
        """The number of images added."""
        return len(self.images)

    def add(
        self,
        gt_ids: np.ndarray,
        gt_segments: Sequence[Segment],
        pred_ids: np.ndarray,
        pred_segments: Sequence[Segment],
        *,
        name: str = "image",
    ) -> ImageCounts:
        """Add one image.

        Args:
            gt_ids: (H, W) integers ≥ 0, the id of each pixel's segment, or (H, W, 3) uint8, the
                colors that stand for it in a PNG; 0 is void. Ids that ``gt_segments`` lacks belong
                to no segment, yet are not void (as in the reference).
            gt_segments: dicts of ``id``, ``category_id`` and ``iscrowd`` (0 if absent). Areas are
                counted in ``gt_ids``; a stated ``area`` is not used.
            pred_ids, pred_segments: the prediction, likewise; its segments have no crowds.
            name: what reports and error messages call the image.

        Returns:
            What this image contributed.

        Raises:
            DatasetError: sizes differ; a segment's id is not positive or used twice; a category is
                unknown; a predicted id is in the map and not in the segments, or the reverse.
        """
        (image,) = self.add_batch([(name, gt_ids, gt_segments, pred_ids, pred_segments)])
        return image

    def add_batch(self, images: Iterable[Image]) -> list[ImageCounts]:
        """Add some images, each as :meth:`add` takes it: faster than one by one.

        Args:
            images: (name, gt_ids, gt_segments, pred_ids, pred_segments) of at least one.

        Raises:
            DatasetError: as :meth:`add`; nothing of the batch is counted then.
        """
        pairs = [(image[0], self._overlaps(*image)) for image in images]
        names, overlaps = zip(*pairs, strict=True)
        batch = Batch(overlaps, len(self.categories))
        segments = batch.segments()
        self.segments.add(segments.sum())
        if self.boundaries:
            self.boundary.add(batch.boundaries().sum().sum())
        self.confusion += batch.confusion()
        added = ImageCounts.of_batch(names, segments.sum(axis=1), *batch.areas())
        self.images += added
        return added

    def _overlaps(
        self,
        name: str,
        gt_ids: np.ndarray,
        gt_segments: Sequence[Segment],
        pred_ids: np.ndarray,
        pred_segments: Sequence[Segment],
    ) -> Overlaps:
        """Which segments of an image lie on each other."""
        gt_ids, pred_ids = _as_ids(gt_ids, f"{name}: ground truth"), _as_ids(pred_ids, name)
        if gt_ids.shape != pred_ids.shape:
            raise DatasetError(
                f"{name}: the prediction is {_size(pred_ids)} pixels and the ground truth "
                f"{_size(gt_ids)}; both must have the size of the image"
            )
        gt_seg_ids, gt_cats = self._table(gt_segments, f"{name}: ground truth")
        pred_seg_ids, pred_cats = self._table(pred_segments, f"{name}: prediction")
        flags = boundary_flags(gt_ids, pred_ids) if self.boundaries else None
        rows, columns, pixels = count_pairs(gt_ids, pred_ids, gt_seg_ids, pred_seg_ids, flags)
        found = np.bincount(columns, minlength=len(pred_seg_ids) + 2)
        if found[-1] or not found[:-2].all():
            raise _segments_mismatch(pred_ids, pred_seg_ids, name)
        void = len(self.categories)
        crowd = [bool(s.get("iscrowd", 0)) for s in gt_segments]
        return Overlaps(
            np.append(gt_cats, [void, void]),
            np.array([*crowd, False, False]),
            np.append(pred_cats, void),
            rows,
            columns,
            pixels,
        )

    def merge(self, other: PanopticQuality) -> None:
        """Add the images of another accumulator.

        Raises:
            ValueError: the other has other categories or settings.
        """
        if (self.categories, self.boundaries) != (other.categories, other.boundaries):
            raise ValueError("cannot merge panoptic quality over different categories")
        self.segments.add(other.segments)
        self.boundary.add(other.boundary)
        self.confusion += other.confusion
        self.images += other.images

    def per_class(self) -> dict[str, np.ndarray]:
        """PQ, SQ and RQ (C,) of each category in [0, 1]; NaN where it has no segment at all."""
        return self.segments.sum().quality()

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
        try:
            categories = {s["id"]: self._index[s["category_id"]] for s in segments}
            ids = np.fromiter(categories, np.int64, len(categories))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise self._fault(segments, where) from None
        if len(ids) < len(segments) or ids.min(initial=1) <= VOID:
            raise DatasetError(
                f"{where}: segment ids must be positive and differ from each other; "
                f"found {sorted(int(s['id']) for s in segments)}"
            )
        return ids, np.fromiter(categories.values(), np.int64, len(ids))

    def _fault(self, segments: Sequence[Segment], where: str) -> DatasetError:
        """What is wrong with segments of which one is no segment, or of no category there is."""
        wrong = next((s for s in segments if not _is_segment(s)), None)
        if wrong is not None:
            return DatasetError(
                f"{where}: a segment needs integers 'id' and 'category_id'; found {wrong}"
            )
        wrong = next(s for s in segments if s["category_id"] not in self._index)
        return DatasetError(
            f"{where}: segment {wrong['id']} has category_id {wrong['category_id']}, which the "
            "ground truth's categories do not declare"
        )


def _is_segment(segment: Any) -> bool:
    return isinstance(segment, Mapping) and all(
        isinstance(segment.get(key), (int, np.integer)) and abs(segment[key]) < 2**63
        for key in ("id", "category_id")
    )


def _as_ids(ids: np.ndarray, where: str) -> np.ndarray:
    """Ids (H, W), from colors where they are some."""
    ids = np.ascontiguousarray(ids)
    if ids.ndim == 3 and ids.shape[2] == 3 and ids.dtype == np.uint8:
        ids = rgb_to_id(ids)
    if ids.size == 0 or ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise DatasetError(
            f"{where}: a panoptic map must be (H, W) integers, or (H, W, 3) uint8 "
            f"colors; got {ids.shape} {ids.dtype}"
        )
    return ids


def _segments_mismatch(pred_ids: np.ndarray, seg_ids: np.ndarray, name: str) -> DatasetError:
    in_map = set(np.unique(pred_ids).tolist()) - {VOID}
    in_segments = set(seg_ids.tolist())
    return DatasetError(
        f"{name}: the predicted map and its segments_info must have the same segment ids; only in "
        f"the map: {sorted(in_map - in_segments)}, only in segments_info: "
        f"{sorted(in_segments - in_map)}"
    )


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[1]}x{ids.shape[0]}"
