"""Instance masks pasted into the image inside their boxes only."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Boxes, ROIMasks
from torch.nn import functional as F

from ..compiled import compiled_kernels, in_threads

__all__ = ["paste_masks", "paste_regions"]

KERNELS = f"{__package__}.kernels.paste_{{}}"


def paste_regions(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Rows and columns outside of which the pasted masks are empty.

    Args:
        boxes: (N, 4) float, x0, y0, x1, y1.
        size: (H, W) of the image.

    Returns:
        (N, 4) int32: y0, y1, x0, x1, the boxes grown by the pixel that bilinear interpolation
        reaches beyond them, as Detectron2's ``_do_paste_mask`` has it on the CPU.
    """
    height, width = size
    starts = (boxes[:, :2].floor() - 1).clamp(min=0)
    stops = boxes[:, 2:].ceil() + 1
    x0, y0 = starts.unbind(1)
    x1, y1 = stops[:, 0].clamp(max=width), stops[:, 1].clamp(max=height)
    return torch.stack([y0, y1, x0, x1], dim=1).int()


def paste_masks(
    masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Detectron2's ``paste_masks_in_image``, bit for bit, on the CPU touching only the boxes.

    A pixel whose interpolated probability is so close to ``threshold`` that rounding decides is
    evaluated by the operator that Detectron2 uses, ``F.grid_sample``; all others need not be.

    Args:
        masks: (N, M, M) float probabilities.
        boxes: (N, 4) float, x0, y0, x1, y1, finite and not empty.
        size: (H, W) of the image.
        threshold: in [0, 1].

    Returns:
        (N, H, W) bool.
    """
    paste_one = _compiled_kernel(masks, boxes)
    if paste_one is None:
        return _paste_stock(masks, boxes, size, threshold)
    # calloc: the operating system maps only the pages that are written.
    out = torch.from_numpy(np.zeros((len(masks), *size), dtype=np.bool_))
    regions = paste_regions(boxes, size)
    doubtful: list[np.ndarray | None] = [None] * len(masks)
    tensors = (masks.contiguous(), boxes.contiguous(), regions, out)
    arrays = [tensor.detach().numpy() for tensor in tensors]

    def paste(i: int) -> None:
        doubtful[i] = paste_one(*(a[i] for a in arrays[:3]), threshold, arrays[3][i])

    in_threads(paste, range(len(masks)))
    _decide(masks, boxes, doubtful, threshold, out)
    return out


def _paste_stock(masks, boxes, size, threshold) -> torch.Tensor:
    return ROIMasks(masks).to_bitmasks(Boxes(boxes), *size, threshold).tensor


def _compiled_kernel(masks, boxes):
    if masks.device.type != "cpu" or not masks.dtype == boxes.dtype == torch.float32:
        return None
    if not bool(masks.sum().isfinite()):
        return None
    kernels = compiled_kernels(KERNELS, masks.device)
    if kernels is None:
        return None

    def paste_one(mask, box, region, threshold, out):
        doubtful = np.empty((kernels.MAX_DOUBTFUL, 2), np.int32)
        found = kernels.paste_one(mask, box, region, np.float32(threshold), out, doubtful)
        return doubtful[:found].copy() if found <= len(doubtful) else None

    return paste_one


def _decide(masks, boxes, doubtful, threshold, out) -> None:
    """Settle the pixels that the kernel left open; an instance with too many, as a whole."""
    for i, pixels in enumerate(doubtful):
        if pixels is None:
            out[i] = _paste_stock(masks[i : i + 1], boxes[i : i + 1], out.shape[1:], threshold)[0]
    index = [i for i, pixels in enumerate(doubtful) if pixels is not None and len(pixels)]
    if not index:
        return
    y, x = torch.from_numpy(np.concatenate([doubtful[i] for i in index])).unbind(1)
    instance = torch.repeat_interleave(
        torch.tensor(index), torch.tensor([len(doubtful[i]) for i in index])
    )
    x0, y0, x1, y1 = boxes[instance].unbind(1)
    grid_x = (x + 0.5 - x0) / (x1 - x0) * 2 - 1  # in this order: the roundings of Detectron2
    grid_y = (y + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack([grid_x, grid_y], dim=1)[:, None, None]
    values = F.grid_sample(masks[instance, None], grid, align_corners=False)
    out[instance, y.long(), x.long()] = values.flatten() >= threshold
