"""Pixels of pairs of segments, counted from two label maps, and those near boundaries."""

from __future__ import annotations

import math

import cv2
import numpy as np

from ..data.id_map import VOID, rgb_to_id

__all__ = ["ON_GT", "ON_PRED", "boundary_flags", "count_pairs", "find_positions"]

# Bits of a pixel's flag: near a boundary of the ground truth; on the boundary of its segment.
NEAR, ON_GT, ON_PRED = 1, 2, 4
_NUM_FLAGS = 8

_NEAR_RATIO = 0.005  # width of the band around boundaries, in image diagonals
_BOUNDARY_RATIO = (
    0.02  # width of a segment's boundary in Boundary IoU (Cheng et al. 2021), likewise
)


def count_pairs(
    gt: np.ndarray,
    pred: np.ndarray,
    gt_seg_ids: np.ndarray,
    pred_seg_ids: np.ndarray,
    flags: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels (F, G + 2, P + 2) int64 of each pair of segments by flag.

    The last two rows and columns are void and ids that the segments lack. Label maps are piecewise
    constant, so runs of equal pairs are counted instead of pixels.

    Args:
        gt, pred: (H, W, D), both with D = 1 integer id or both with D = 3 colors of a pixel.
        gt_seg_ids, pred_seg_ids: (G,) and (P,), the ids of the segments.
        flags: (H, W) uint8 of :func:`boundary_flags`; without them F = 1.
    """
    starts = _run_starts(gt, pred, flags)
    shape = (1 if flags is None else _NUM_FLAGS, len(gt_seg_ids) + 2, len(pred_seg_ids) + 2)
    cell = _positions_at(starts, gt, gt_seg_ids) * shape[2]
    cell += _positions_at(starts, pred, pred_seg_ids)
    if flags is not None:
        cell += flags.ravel()[starts] * np.int64(shape[1] * shape[2])
    lengths = np.diff(starts, append=gt.shape[0] * gt.shape[1])
    # Sums in float64 are exact up to 2^53 pixels.
    counts = np.bincount(cell, lengths, minlength=math.prod(shape))
    return counts.astype(np.int64).reshape(shape)


def _run_starts(gt: np.ndarray, pred: np.ndarray, flags: np.ndarray | None) -> np.ndarray:
    """Indices of the pixels at which any of the flattened maps changes, and of the first."""
    depth = gt.shape[2]
    first, second = gt.ravel(), pred.ravel()
    changes = first[depth:] != first[:-depth]
    changes |= second[depth:] != second[:-depth]
    if flags is not None:
        changes |= flags.ravel()[1:] != flags.ravel()[:-1]
    starts = np.flatnonzero(changes) + depth
    if depth > 1:  # a pixel is there once for each of its colors that changes
        starts //= depth
        starts = starts[np.append(True, starts[1:] != starts[:-1])[: len(starts)]]
    return np.append(0, starts)


def _positions_at(pixels: np.ndarray, ids: np.ndarray, seg_ids: np.ndarray) -> np.ndarray:
    """:func:`find_positions` of the ids of some pixels, in order; looked up once for each run."""
    colors = ids.reshape(-1, ids.shape[2])[pixels]
    found = colors[:, 0] if ids.shape[2] == 1 else rgb_to_id(colors)
    begins = np.append(True, found[1:] != found[:-1])
    return find_positions(seg_ids, found[begins])[np.cumsum(begins) - 1]


def find_positions(seg_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where in seg_ids (N,) each id is: N for void, N + 1 for an id that is not there."""
    known = np.append(seg_ids, VOID)
    order = np.argsort(known)
    known = known[order]
    index = np.minimum(np.searchsorted(known, ids), len(seg_ids))
    return np.where(known[index] == ids, order[index], len(known))


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
