"""The passes of :mod:`.merge` over the pixels in plain PyTorch, for any device.

On a GPU nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import EllipsisType

import torch

__all__ = ["accept", "count_stuff", "fill"]


def accept(
    masks: torch.Tensor,
    regions: torch.Tensor,
    order: torch.Tensor,
    active: torch.Tensor,
    overlap_threshold: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the instances one after the other and give each its pixels.

    Args:
        masks: (N, H, W) bool.
        regions: (N, 4) int32, y0, y1, x0, x1: no pixel of the mask lies outside.
        order: (N,) int64, the instances from the most confident on.
        active: (N,) bool, by position in ``order``: confident enough to be considered.
        overlap_threshold: an instance is dropped if a greater share of it is taken already.

    Returns:
        owner: (H, W) int32, 0 or 1 + the position in ``order`` of the pixel's instance.
        accepted: (N,) bool, by position in ``order``.
    """
    owner = torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device)
    accepted = torch.zeros(len(order), dtype=torch.bool, device=masks.device)
    sorted_masks: Iterable[torch.Tensor]
    windows: Sequence[EllipsisType | tuple[slice, slice]]
    if masks.is_cuda:  # the regions are not known here: whole images, in sorted order
        sorted_masks, windows = masks[order], [...] * len(order)
    else:
        sorted_masks = (masks[i] for i in order)
        windows = [(slice(y0, y1), slice(x0, x1)) for y0, y1, x0, x1 in regions[order].tolist()]
    for position, (mask, window) in enumerate(zip(sorted_masks, windows, strict=True)):
        mask, owner_here = mask[window], owner[window]
        free = owner_here == 0
        area = mask.sum()
        covered = area - (mask & free).sum()
        too_much = covered.double() / area.double() > overlap_threshold
        accepted[position] = active[position] & (area > 0) & ~too_much
        owner_here.masked_fill_(mask & free & accepted[position], position + 1)
    return owner, accepted


def count_stuff(
    labels: torch.Tensor, owner: torch.Tensor, num_labels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count every label's pixels without an owner.

    Args:
        labels: (H, W) integers in [0, num_labels).
        owner: (H, W) int32, 0 where there is none.

    Returns:
        free: (num_labels,) int64 numbers of pixels.
        present: (num_labels,) bool, whether the label occurs at all, owned or not.
    """
    # bincount would wait for the device; a row at a time keeps the atomic additions apart.
    labels = labels.long()
    rows = torch.zeros(2, len(labels), num_labels, dtype=torch.int32, device=labels.device)
    rows[0].scatter_add_(1, labels, (owner == 0).int())
    rows[1].scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.int32))
    free, total = rows.sum(dim=1)
    return free, total > 0


def fill(
    labels: torch.Tensor,
    owner: torch.Tensor,
    instance_ids: torch.Tensor,
    stuff_ids: torch.Tensor,
) -> torch.Tensor:
    """Segment ids (H, W) int32 from owners and labels.

    ``instance_ids``: (N,) int32 by position in the order; ``stuff_ids``: (num_labels,) int32; 0
    stands for no segment.
    """
    instance_ids = torch.nn.functional.pad(instance_ids, (1, 0))
    return torch.where(owner > 0, instance_ids[owner.long()], stuff_ids[labels.long()])
