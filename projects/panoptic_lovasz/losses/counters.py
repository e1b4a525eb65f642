"""Counters of binned pixel errors, and the Lovász loss and its gradient derived from them.

Let ``m`` be the error of a pixel for one class (Berman et al., "The Lovász-Softmax loss",
CVPR 2018, section 3.2): ``1 - p`` where the class is the pixel's label (foreground), ``p``
elsewhere (background). The range [0, 1] of ``m`` is cut into ``K`` bins and every pixel adds one
integer to its bin, see :func:`bin_errors`. The integers do not depend on the order of summation,
and the loss and its gradient follow from them alone; ``docs/loss.md`` has the proofs.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "MAX_PIXELS",
    "RESIDUAL_BITS",
    "RESIDUAL_TOTAL_BITS",
    "bin_errors",
    "bin_weights",
    "pixel_weights",
    "unpack",
]

# A pixel's place inside its bin is kept in steps of 2**-8 of the bin's width ...
RESIDUAL_BITS = 8
# ... the low 36 bits of a counter hold the sum of these, the 27 bits above it the pixels' number.
RESIDUAL_TOTAL_BITS = 36
# So many pixels fit into one counter: 2**27 - 1.
MAX_PIXELS = (1 << (63 - RESIDUAL_TOTAL_BITS)) - 1


def bin_errors(errors: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Bin of every error and the integer that a pixel with this error adds to the bin's counter.

    Args:
        errors: any shape, float32, in [0, 1]. NaN falls into bin 0.
        num_bins: K.

    Returns:
        ``min(floor(m K), K - 1)`` and ``2**36 + round(2**8 (m K - bin))``, both int64.
    """
    scaled = errors * num_bins
    bins = scaled.long().clamp_(0, num_bins - 1)
    residual = scaled.sub_(bins).mul_(1 << RESIDUAL_BITS).round_().long()
    return bins, residual.clamp_(0, 1 << RESIDUAL_BITS).add_(1 << RESIDUAL_TOTAL_BITS)


def unpack(counters: Tensor) -> tuple[Tensor, Tensor]:
    """Number of pixels and sum of their errors in every bin; float64, like ``counters`` in shape.

    Both are exact: integers, the second in units of 1 / (256 K).

    Args:
        counters: (..., K) int64, sums of what :func:`bin_errors` returns.
    """
    num_bins = counters.shape[-1]
    counts = counters >> RESIDUAL_TOTAL_BITS
    residuals = counters & ((1 << RESIDUAL_TOTAL_BITS) - 1)
    lower_edges = torch.arange(num_bins, device=counters.device) << RESIDUAL_BITS
    steps = counts * lower_edges + residuals
    return counts.double(), steps.double() / (num_bins << RESIDUAL_BITS)


def pixel_weights(
    foreground: Tensor, background: Tensor, n_f: Tensor, n_b: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights of the errors of pixels that enter the set of wrong pixels together.

    The Jaccard loss of a set of ``n_f`` foreground and ``n_b`` background pixels is
    ``1 - (G - n_f) / (G + n_b)``; for ``G = 0`` it is 0 for the empty set and 1 for any other.
    Together the entering pixels weigh what they add to it: ``f w_f + b w_b``. A foreground pixel
    weighs what it would add on its own halfway through the entering background pixels. For a
    single pixel these are the weights of equation 8.

    Args:
        foreground: ``f``, number of foreground pixels that enter; float64 like all arguments.
        background: ``b``, number of background pixels that enter.
        n_f: foreground pixels already in the set.
        n_b: background pixels already in the set.
        total: ``G``, foreground pixels that there are.

    Returns:
        ``w_f`` and ``w_b``, float64, finite and not negative.
    """
    union = (total + n_b).clamp(min=1)  # 0 only where G = 0 and the set is empty
    w_foreground = 1 / (union + background / 2)
    w_background = (total - n_f) / union - foreground / (2 * union + background)
    w_background = w_background / (union + background)
    first_wrong = (total + n_b == 0) & (background > 0)
    return w_foreground, torch.where(first_wrong, 1 / background, w_background)


def bin_weights(counts: Tensor) -> Tensor:
    """Weight of a pixel's error in the loss, the same for all pixels of a kind in a bin.

    Args:
        counts: (..., 2, K) float64, background pixels in row 0 and foreground pixels in row 1.

    Returns:
        (..., 2, K) float64, finite and not negative.
    """
    up_to = counts.cumsum(-1)
    background, foreground = counts.unbind(-2)
    n_b, n_f = (up_to[..., -1:] - up_to).unbind(-2)  # pixels of higher bins
    total = up_to[..., 1, -1:]
    w_foreground, w_background = pixel_weights(foreground, background, n_f, n_b, total)
    return torch.stack((w_background, w_foreground), dim=-2)
