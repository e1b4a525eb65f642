"""From segment ids to positions in a list of segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["MAX_SEGMENT_ID", "index_map"]

MAX_SEGMENT_ID = 256**3 - 1  # the largest that the panoptic PNG format can hold


def index_map(panoptic_seg: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Position of each pixel's id in ``ids``; ``len(ids)`` where it is none of them.

    Args:
        panoptic_seg: integer (H, W) array; negative ids belong to no segment.
        ids: distinct segment ids in [0, MAX_SEGMENT_ID].

    Returns:
        int32 (H, W).

    Raises:
        ValueError: an id is too large, negative or listed twice.
    """
    known = np.asarray(ids, dtype=np.int64)
    highest = max([int(panoptic_seg.max()), *known.tolist()])
    if highest > MAX_SEGMENT_ID or (known < 0).any():
        raise ValueError(f"segment ids must be in 0..{MAX_SEGMENT_ID}; found {highest}")
    distinct, counts = np.unique(known, return_counts=True)
    if len(distinct) != len(known):
        twice = distinct[counts > 1].tolist()
        raise ValueError(f"segments_info: the segment ids {twice} are listed more than once")
    positions = np.full(highest + 2, len(known), dtype=np.int32)  # the last is that of negative ids
    positions[known] = np.arange(len(known))
    return positions[np.maximum(panoptic_seg, -1, dtype=np.int64)]  # unsigned ids have no -1
