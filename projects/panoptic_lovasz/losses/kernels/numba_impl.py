"""Cross-entropy and a region term from low-resolution logits: compiled for the CPU with numba.

The image is cut into chunks of rows, whatever the number of threads, and chunks that add to the
same row of the gradient run in a fixed order, so that the results are the same to the last bit
for any number of threads. The threads are plain ones around functions that release the GIL, and
end with the call: a process may fork afterwards, which numba's own thread pools do not all allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from queue import SimpleQueue

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...compiled import in_threads, jit
from ..options import LossOptions
from .numba_rows import count_rows, weigh_rows

__all__ = ["count", "read_labels", "saved_shape", "weigh"]

CHUNK_ROWS = 4  # rows of the logits; at least 2, so that every other chunk is on its own
TILE_ELEMENTS = 96 * 1024  # classes x pixels; two float32 tiles fit a second-level cache of 1 MB

Chunk = tuple[int, int, int]  # image, first and last (exclusive) row of the logits


def read_labels(
    target: Tensor, num_classes: int, ignore_index: int, num_groups: int
) -> tuple[Tensor, Tensor]:
    """See :func:`.torch_impl.read_labels`."""
    labels = target.long().numpy()
    extremes = np.zeros((len(labels), 2), np.int64)
    present = np.zeros((len(labels), num_classes), bool)

    def work(image: int) -> None:
        extremes[image] = _scan_labels(labels[image], num_classes, ignore_index, present[image])

    in_threads(work, range(len(labels)))
    range_ = np.array([extremes[:, 0].min(), extremes[:, 1].max()])
    grouped = present.reshape(num_groups, -1, num_classes).any(1)
    return torch.from_numpy(range_), torch.from_numpy(grouped)


@jit
def _scan_labels(target, num_classes, ignore_index, present):
    """Smallest and largest label of an image outside [0, C), 0 if there is none.

    Args:
        target: (h s, w s) int64.
        present: (C,) bool, set for the classes that occur.
    """
    low, high = 0, 0
    for row in range(target.shape[0]):
        for label in target[row]:
            if label == ignore_index:
                continue
            if 0 <= label < num_classes:
                present[label] = True
            else:
                low, high = min(low, label), max(high, label)
    return low, high


def count(
    logits: Tensor,
    target: Tensor,
    active: Tensor,
    options: LossOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """First pass, see :func:`.torch_impl.count`; keeps the log-sum-exp of every pixel.

    The third result is (B, h s, w s) float32, infinite where a pixel does not count. Inside a row
    its order is that of :mod:`.numba_rows`, for :func:`weigh` alone.
    """
    num_images, num_classes, height, width = logits.shape
    num_groups = len(active)
    images, labels, class_is_active = _pad(logits), target.long().numpy(), active.numpy()
    ce_weights = _class_weights(options.class_weights, num_classes)
    tile = _tile(num_classes * options.scale_factor, width)
    counters = np.zeros((num_groups, num_classes, 2, options.num_bins), np.int64)
    log_sum = np.empty(target.shape, np.float32)
    ce_sums = np.zeros((*target.shape[:2], 2))
    for group in range(num_groups):
        chunks = _chunks(range(group, num_images, num_groups), height)
        num_threads = min(torch.get_num_threads(), len(chunks))
        per_thread = np.zeros((num_threads, *counters.shape[1:]), np.int64)
        unused: SimpleQueue = SimpleQueue()
        for own in per_thread:
            unused.put(own)

        def work(chunk: Chunk, group: int = group, unused: SimpleQueue = unused) -> None:
            image, first, last = chunk
            own = unused.get()
            try:
                count_rows(
                    images[image], labels[image], first, last, class_is_active[group], ce_weights,
                    options.scale_factor, options.ignore_index, tile, own, log_sum[image],
                    ce_sums[image],
                )  # fmt: skip
            finally:  # without it an error here would leave other threads waiting
                unused.put(own)

        in_threads(work, chunks, num_threads)
        counters[group] = per_thread.sum(0)
    sums = ce_sums.sum((0, 1))
    return torch.from_numpy(counters), torch.from_numpy(sums), torch.from_numpy(log_sum)


def saved_shape(logits: Tensor, options: LossOptions) -> tuple[int, ...]:
    """Shape of the third result of :func:`count`."""
    num_images, _, height, width = logits.shape
    return num_images, height * options.scale_factor, width * options.scale_factor


def weigh(
    logits: Tensor,
    target: Tensor,
    saved: Tensor,
    active: Tensor,
    weights: Tensor,
    ce_coefficient: Tensor,
    region_coefficient: Tensor,
    options: LossOptions,
) -> Tensor:
    """Second pass, see :func:`.torch_impl.weigh`."""
    num_images, num_classes, height, width = logits.shape
    num_groups = len(active)
    images, labels, class_is_active = _pad(logits), target.long().numpy(), active.numpy()
    ce_weights = _class_weights(options.class_weights, num_classes) * ce_coefficient.numpy()
    bin_weights, log_sum = (weights * region_coefficient).numpy(), saved.numpy()
    tile = _tile(num_classes * options.scale_factor, width)
    gradient = np.zeros_like(images)

    def work(chunk: Chunk) -> None:
        image, first, last = chunk
        group = image % num_groups
        weigh_rows(
            images[image], labels[image], first, last, class_is_active[group], ce_weights,
            options.scale_factor, options.ignore_index, tile, bin_weights[group], log_sum[image],
            gradient[image],
        )  # fmt: skip

    # A chunk adds to the row before it and to the row after it as well.
    chunks = _chunks(range(num_images), height)
    for parity in (0, 1):
        apart = [chunk for chunk in chunks if chunk[1] // CHUNK_ROWS % 2 == parity]
        in_threads(work, apart)
    return _pad_adjoint(torch.from_numpy(gradient)).to(logits.dtype)


def _pad(logits: Tensor) -> np.ndarray:
    """(B, C, h, w) -> (B, C, h + 2, w + 2) float32: the edges repeated, as upsampling wants it."""
    return F.pad(logits.detach().float(), (1, 1, 1, 1), mode="replicate").numpy()


def _pad_adjoint(gradient: Tensor) -> Tensor:
    """Gradient with respect to what :func:`_pad` was given; works in place."""
    for rows in (gradient, gradient.transpose(2, 3)):
        rows[:, :, 1] += rows[:, :, 0]
        rows[:, :, -2] += rows[:, :, -1]
    return gradient[:, :, 1:-1, 1:-1].contiguous()


def _class_weights(class_weights: Tensor | None, num_classes: int) -> np.ndarray:
    return np.ones(num_classes, np.float32) if class_weights is None else class_weights.numpy()


def _tile(elements_per_column: int, width: int) -> int:
    """Columns of the logits in one tile: few enough for the cache, in tiles of one size."""
    num_tiles = math.ceil(width * elements_per_column / TILE_ELEMENTS)
    return math.ceil(width / num_tiles)


def _chunks(images: Iterable[int], height: int) -> list[Chunk]:
    return [
        (image, first, min(first + CHUNK_ROWS, height))
        for image in images
        for first in range(0, height, CHUNK_ROWS)
    ]
