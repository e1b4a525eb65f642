"""Masks of COCO annotations as runs of pixels: what they take depends on outlines, not on areas."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ..errors import DatasetError
from .fields import shorten

__all__ = ["DegenerateMask", "RunMask", "read_mask"]

_FAR = 10  # polygons that reach this many image sizes away are not drawn


class DegenerateMask(DatasetError):
    """An annotation whose mask has no pixel: a point, a line, a box alone, outside of the image."""


class RunMask(NamedTuple):
    """A mask as runs of pixels in column-major order, as COCO's RLE counts them."""

    starts: np.ndarray  # (R,) index of each run's first pixel
    lengths: np.ndarray  # (R,) in pixels, positive

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.lengths.sum())

    def paint(self, columns: np.ndarray, value: int) -> None:
        """Set the mask's pixels of a flat column-major map to a value, in place."""
        first = np.cumsum(self.lengths) - self.lengths
        columns[np.repeat(self.starts - first, self.lengths) + np.arange(self.area)] = value


def read_mask(annotation: dict[str, Any], shape: tuple[int, int], box: bool = False) -> RunMask:
    """The mask of a COCO annotation: polygons, or an RLE, compressed or not.

    Args:
        annotation: with "segmentation", of which polygons of less than three points are left out.
        shape: height and width of the image.
        box: take "bbox" where there is no segmentation.

    Raises:
        DegenerateMask: if the mask has no pixel.
        DatasetError: if it is of another kind, damaged or of another size.
    """
    segmentation = annotation.get("segmentation")
    if box and not segmentation:
        segmentation = _box_polygon(annotation.get("bbox"))
    if isinstance(segmentation, dict):
        mask = _from_counts(_read_rle(segmentation, shape), shape)
    elif not segmentation:
        raise DegenerateMask("it has no mask, only a box")
    else:
        rles = mask_util.frPyObjects(_polygons(segmentation, shape), *shape)
        mask = _from_counts(_decode(mask_util.merge(rles)["counts"]), shape)
    if not mask.area:
        raise DegenerateMask("its mask covers no pixel")
    return mask


def _polygons(segmentation: Any, shape: tuple[int, int]) -> list[list[float]]:
    if not isinstance(segmentation, list):
        raise DatasetError(
            f"segmentation is {shorten(segmentation)}, expected polygons or an object with size "
            "and counts"
        )
    if all(type(v) in (int, float) for v in segmentation):  # one polygon that is not in a list
        segmentation = [segmentation]
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(type(v) in (int, float) for v in polygon):
            raise DatasetError(f"a polygon is {shorten(polygon)}, expected [x0, y0, x1, y1, ...]")
        if not all(map(math.isfinite, polygon)):
            raise DegenerateMask("a polygon has coordinates that are not finite")
        if max(map(abs, polygon), default=0) > _FAR * (max(shape) + 100):
            raise DegenerateMask("a polygon leads far out of the image")
        if len(polygon) % 2:
            raise DegenerateMask("a polygon has an odd number of coordinates")
        if len(polygon) >= 6:
            polygons.append(polygon)
    if not polygons:
        raise DegenerateMask("its polygons have less than three points")
    return polygons


def _box_polygon(box: Any) -> list[list[float]]:
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
    if not numbers or not box[2] > 0 or not box[3] > 0:
        raise DegenerateMask(f"it has no mask, and its bbox is {shorten(box)}")
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _read_rle(rle: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    size, counts = rle.get("size"), rle.get("counts")
    if size != list(shape):
        raise DatasetError(
            f"its RLE has the size {shorten(size)}, its image {list(shape)} (height, width)"
        )
    if isinstance(counts, str):
        return _decode(counts.encode())
    if not isinstance(counts, list) or not all(type(c) is int and 0 <= c < 2**31 for c in counts):
        raise DatasetError(f"its RLE has the counts {shorten(counts)}, expected numbers or a text")
    return np.array(counts, np.int64)


def _decode(text: bytes) -> np.ndarray:
    """Counts of a compressed RLE, as pycocotools' ``rleFrString`` reads them.

    Each number is a group of characters of six bits above "0": five of the number, lowest first,
    and one that says that more follow. From the fourth on it is the difference to the last but one.
    """
    chars = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not chars.size or chars.min() < 0 or chars.max() > 63 or chars[-1] & 32:
        raise DatasetError(f"its RLE is damaged: {shorten(text)}")
    ends = np.flatnonzero(chars & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends + 1 - starts
    if sizes.max() > 7:
        raise DatasetError(f"its RLE is damaged: {shorten(text)}")
    place = np.arange(chars.size) - np.repeat(starts, sizes)
    counts = np.add.reduceat((chars & 31) << 5 * place, starts)
    counts -= np.where(chars[ends] & 16, 1 << 5 * sizes, 0)
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    return counts


def _from_counts(counts: np.ndarray, shape: tuple[int, int]) -> RunMask:
    """Runs of an RLE's counts: of pixels outside, inside, outside ... of the mask."""
    if (counts.size and counts.min() < 0) or counts.sum() != shape[0] * shape[1]:
        raise DatasetError(
            f"its RLE is damaged: its counts are of {counts.sum()} pixels, the image has "
            f"{shape[0] * shape[1]}"
        )
    starts, lengths = (np.cumsum(counts) - counts)[1::2], counts[1::2]
    return RunMask(starts[lengths > 0], lengths[lengths > 0])
