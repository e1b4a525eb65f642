"""The passes of :mod:`.merge` on a CUDA device.

Instances are accepted one after the other, one small launch for each, none of them waited for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .merge_torch import count_stuff, fill

__all__ = ["accept", "count_stuff", "fill"]

TILE_HEIGHT, TILE_WIDTH = 32, 128


@triton.jit
def _meets(region, y0, x0, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr):
    """Whether the tile from (y0, x0) on meets the region y0, y1, x0, x1 in memory."""
    rows = (tl.load(region) < y0 + TILE_HEIGHT) & (tl.load(region + 1) > y0)
    columns = (tl.load(region + 2) < x0 + TILE_WIDTH) & (tl.load(region + 3) > x0)
    return rows & columns


@triton.jit(do_not_specialize=["position"])
def _step(
    masks, regions, order, active, threshold, areas, covered, owner, accepted,
    position, count, height, width,
    TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """Conclude on the instance at ``position - 1``, then count the one at ``position``."""
    y0 = tl.program_id(0) * TILE_HEIGHT
    x0 = tl.program_id(1) * TILE_WIDTH
    y = y0 + tl.arange(0, TILE_HEIGHT)[:, None]
    x = x0 + tl.arange(0, TILE_WIDTH)[None, :]
    inside = (y < height) & (x < width)
    pixel = y * width + x

    last = tl.maximum(position - 1, 0)
    area = tl.load(areas + last)
    share = tl.load(covered + last).to(tl.float64) / tl.maximum(area, 1).to(tl.float64)
    taken = (tl.load(active + last) != 0) & (area > 0) & (share <= tl.load(threshold))
    taken &= position > 0
    if taken & (y0 == 0) & (x0 == 0):
        tl.store(accepted + last, 1)
    claimant = tl.load(order + last)
    claims = taken & _meets(regions + 4 * claimant, y0, x0, TILE_HEIGHT, TILE_WIDTH)

    next = tl.minimum(position, count - 1)
    candidate = tl.load(order + next)
    counts = (position < count) & (tl.load(active + next) != 0)
    counts &= _meets(regions + 4 * candidate, y0, x0, TILE_HEIGHT, TILE_WIDTH)

    if claims | counts:
        owned = tl.load(owner + pixel, mask=inside, other=0)
        if claims:
            mask = tl.load(masks + claimant * height * width + pixel, mask=inside, other=0) != 0
            owned = tl.where(mask & (owned == 0), position, owned)
            tl.store(owner + pixel, owned, mask=inside)
        if counts:
            mask = tl.load(masks + candidate * height * width + pixel, mask=inside, other=0) != 0
            tl.atomic_add(areas + next, tl.sum(mask.to(tl.int32)))
            tl.atomic_add(covered + next, tl.sum((mask & (owned > 0)).to(tl.int32)))


def accept(masks, regions, order, active, overlap_threshold):
    """See :func:`.merge_torch.accept`."""
    count, height, width = masks.shape
    owner = torch.zeros(height, width, dtype=torch.int32, device=masks.device)
    accepted = torch.zeros(count, dtype=torch.int8, device=masks.device)
    areas, covered = torch.zeros(2, count, dtype=torch.int32, device=masks.device)
    # In memory, because a float argument of a kernel is rounded to float32.
    threshold = torch.full((1,), overlap_threshold, dtype=torch.float64, device=masks.device)
    grid = (triton.cdiv(height, TILE_HEIGHT), triton.cdiv(width, TILE_WIDTH))
    arguments = (masks.contiguous().view(torch.int8), regions.contiguous(), order)
    with torch.cuda.device_of(masks):  # Triton launches on the current device
        for position in range(count + 1 if count else 0):
            _step[grid](
                *arguments, active.view(torch.int8), threshold, areas, covered, owner, accepted,
                position, count, height, width, TILE_HEIGHT, TILE_WIDTH,
            )  # fmt: skip
    return owner, accepted.bool()
