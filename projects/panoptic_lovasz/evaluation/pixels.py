"""Pixels of pairs of segments, counted from two label maps, and those near boundaries."""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np

from ..data.id_map import MAX_SEGMENT_ID, VOID

__all__ = ["NEAR", "ON_GT", "ON_PRED", "boundary_flags", "count_pairs", "find_positions"]

# Bits of a pixel's flag: near a boundary of the ground truth; on the boundary of its segment.
NEAR, ON_GT, ON_PRED = 1, 2, 4
_NUM_FLAGS = 8

_NEAR_RATIO = 0.005  # width of the band around boundaries, in image diagonals
# Width of a segment's boundary in Boundary IoU (Cheng et al. 2021), likewise.
_BOUNDARY_RATIO = 0.02


def count_pairs(
    gt: np.ndarray,
    pred: np.ndarray,
    gt_seg_ids: np.ndarray,
    pred_seg_ids: np.ndarray,
    flags: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of segments that share pixels: rows (K,), columns (K,) and pixels (F, K).

    Rows and columns are positions among the segments, then void, then all ids that they lack. Label
    maps are piecewise constant, so runs of equal pairs are counted instead of pixels.

    Args:
        gt, pred: (H, W) integer ids.
        gt_seg_ids, pred_seg_ids: (G,) and (P,), the ids of the segments.
        flags: (H, W) uint8 of :func:`boundary_flags`; without them F = 1.
    """
    maps = [m.ravel() for m in (gt, pred, flags) if m is not None]
    is_start = np.empty(gt.size, dtype=bool)
    is_start[0] = True
    np.not_equal(maps[0][1:], maps[0][:-1], out=is_start[1:])
    for m in maps[1:]:
        is_start[1:] |= m[1:] != m[:-1]
    starts = np.flatnonzero(is_start)
    num_columns = len(pred_seg_ids) + 2
    num_pairs = (len(gt_seg_ids) + 2) * num_columns
    num_flags = 1 if flags is None else _NUM_FLAGS
    cell = find_positions(gt_seg_ids, maps[0][starts]) * num_columns
    cell += find_positions(pred_seg_ids, maps[1][starts])
    if flags is not None:
        cell += maps[2][starts] * np.int64(num_pairs)
    lengths = np.empty(len(starts))  # float64, whose sums are exact up to 2^53 pixels
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = gt.size - starts[-1]
    pixels = np.bincount(cell, lengths, num_flags * num_pairs).reshape(num_flags, num_pairs)
    shared = np.flatnonzero(pixels.any(axis=0))
    return *np.divmod(shared, num_columns), pixels[:, shared]


def find_positions(seg_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where in seg_ids (N,) each id is, int64: N for void, N + 1 for an id that is not there."""
    known = np.append(seg_ids, VOID)
    if not (_fit(known) and _fit(ids)):
        order = np.argsort(known)
        known = known[order]
        index = np.minimum(np.searchsorted(known, ids), len(seg_ids))
        return np.where(known[index] == ids, order[index], len(known))
    table = _SCRATCH.table
    try:
        table[known] = np.arange(-len(known), 0)
        return table[ids] + np.int64(len(known))
    finally:  # whatever interrupts this, the next image finds zeros
        table[known] = 0


class _Scratch(threading.local):
    """A table with an entry for each id that a PNG can have, 0 between uses.

    It answers in a fourth of a search's time. Of its 64 MB only the pages in use take memory.
    """

    def __init__(self):
        self.table = np.zeros(MAX_SEGMENT_ID + 1, np.int32)


_SCRATCH = _Scratch()


def _fit(ids: np.ndarray) -> bool:
    """Whether all integers are in 0..2^24 - 1; as unsigned, negative ones are large."""
    return bool(ids.view(f"u{ids.itemsize}").max(initial=0) <= MAX_SEGMENT_ID)


def boundary_flags(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Flags (H, W) uint8 of NEAR, ON_GT and ON_PRED.

    Near are the pixels that touch another segment (4-connected), widened to 0.5 % of the image's
    diagonal on either side. On its segment's boundary in the sense of Boundary IoU is a pixel that
    erosion would take from it: with another segment or the image's outside in the square of
    2 % of the diagonal around it.

    Args:
        gt, pred: (H, W) integer ids.
    """
    edges = _edges(gt)
    flags = _near(*edges)  # NEAR is 1
    flags |= _boundary(*edges) * np.uint8(ON_GT)
    flags |= _boundary(*_edges(pred)) * np.uint8(ON_PRED)
    return flags


def _edges(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where neighbors differ: (H, W - 1) side by side, (H - 1, W) one below the other."""
    return ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]


def _near(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    touching = np.zeros((len(columns), rows.shape[1]), dtype=bool)
    for edges, mask in ((rows, touching), (columns.T, touching.T)):
        mask[1:] |= edges
        mask[:-1] |= edges
    side = 2 * _pixels(_NEAR_RATIO, touching.shape) - 1
    return cv2.dilate(touching.view(np.uint8), np.ones((side, side), np.uint8))


def _boundary(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # A square of more than one segment has 2 x 2 pixels of more than one segment in it. Such four
    # lie in the squares of the pixels from distance - 1 before to distance after the first of them.
    mixed = np.zeros((len(columns), rows.shape[1]), dtype=bool)
    mixed[:-1, :-1] = columns[:-1] | columns[1:] | rows[:, :-1]
    distance = _pixels(_BOUNDARY_RATIO, mixed.shape)
    square = np.ones((2 * distance, 2 * distance), np.uint8)
    boundary = cv2.dilate(mixed.view(np.uint8), square, anchor=(distance, distance))
    for sides in (boundary, boundary.T):
        sides[:distance] = sides[-distance:] = 1  # the image's outside is another segment
    return boundary


def _pixels(ratio: float, size: tuple[int, ...]) -> int:
    """A share of an image's diagonal in whole pixels, at least one."""
    return max(1, round(ratio * math.sqrt(size[0] ** 2 + size[1] ** 2)))
