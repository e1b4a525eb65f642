"""The passes of :mod:`.merge` over the pixels, compiled for the CPU.

Signatures and results are those of :mod:`.merge_torch`, which explains them.
"""

from __future__ import annotations

import numpy as np
import torch

from ...compiled import in_threads, jit

__all__ = ["accept", "count_stuff", "fill"]

ROWS_PER_STRIP = 64


@jit
def _count(mask, owner):
    area = np.int32(0)
    covered = np.int32(0)
    for x in range(mask.shape[0]):
        area += np.int32(mask[x])
        covered += np.int32(mask[x] & (owner[x] > 0))
    return area, covered


@jit
def _claim(mask, owner, rank):
    for x in range(mask.shape[0]):
        owner[x] = rank if mask[x] & (owner[x] == 0) else owner[x]


@jit
def _accept(masks, regions, order, active, overlap_threshold, owner, accepted):
    for position in range(len(order)):
        if not active[position]:
            continue
        i = order[position]
        y0, y1, x0, x1 = regions[i]
        area, covered = 0, 0
        for y in range(y0, y1):
            row_area, row_covered = _count(masks[i, y, x0:x1], owner[y, x0:x1])
            area += row_area
            covered += row_covered
        if area == 0 or covered / area > overlap_threshold:
            continue
        accepted[position] = True
        for y in range(y0, y1):
            _claim(masks[i, y, x0:x1], owner[y, x0:x1], np.int32(position + 1))


@jit
def _count_stuff(labels, owner, free, present):
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            present[label] = True
            free[label] += owner[y, x] == 0


@jit
def _fill(labels, owner, instance_ids, stuff_ids):
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            rank = owner[y, x]
            owner[y, x] = instance_ids[rank - 1] if rank else stuff_ids[labels[y, x]]


def accept(masks, regions, order, active, overlap_threshold):
    """See :func:`.merge_torch.accept`."""
    owner = torch.zeros(masks.shape[1:], dtype=torch.int32)
    accepted = torch.zeros(len(order), dtype=torch.bool)
    arrays = [a.numpy() for a in (masks.contiguous(), regions, order, active)]
    _accept(*arrays, float(overlap_threshold), owner.numpy(), accepted.numpy())
    return owner, accepted


def count_stuff(labels, owner, num_labels):
    """See :func:`.merge_torch.count_stuff`."""
    free = torch.zeros(num_labels, dtype=torch.int64)
    present = torch.zeros(num_labels, dtype=torch.bool)
    _count_stuff(labels.numpy(), owner.numpy(), free.numpy(), present.numpy())
    return free, present


def fill(labels, owner, instance_ids, stuff_ids):
    """See :func:`.merge_torch.fill`; overwrites ``owner``."""
    arrays = [a.numpy() for a in (labels, owner)]
    ids = [a.numpy() for a in (instance_ids, stuff_ids)]

    def strip(start: int) -> None:
        rows = slice(start, start + ROWS_PER_STRIP)
        _fill(*(a[rows] for a in arrays), *ids)

    in_threads(strip, range(0, len(labels), ROWS_PER_STRIP))
    return owner
