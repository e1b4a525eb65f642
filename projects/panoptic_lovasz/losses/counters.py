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


def pixel_weights(foreground: Tensor, background: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """What one more pixel adds to the Jaccard loss of a set of wrong pixels.

    The Jaccard loss of a set with ``n_f`` foreground and ``n_b`` background pixels is
    ``1 - (G - n_f) / (G + n_b)``; for ``G = 0`` it is 0 for the empty set and 1 for any other.

    Args:
        foreground: ``n_f``, float64.
        background: ``n_b``, float64.
        total: ``G``, the number of foreground pixels that there are, float64.

    Returns:
        Weights of a foreground and of a background pixel, float64.
    """
    union = total + background
    empty = union == 0
    w_foreground = 1 / union.masked_fill(empty, 1)
    w_background = torch.where(empty, 1.0, (total - foreground) * w_foreground / (union + 1))
    return w_foreground, w_background


def bin_weights(counts: Tensor) -> Tensor:
    """Weight of each pixel's error in the loss, one for all pixels of a kind in a bin.

    The pixels of a bin together weigh exactly what the bin adds to the Jaccard loss; foreground
    and background share that by what one pixel of each adds in the middle of the bin.

    Args:
        counts: (..., 2, K) float64, background pixels in row 0 and foreground pixels in row 1.

    Returns:
        (..., 2, K) float64, not negative. 0 where the bin has no pixel of the kind.
    """
    above = counts.flip(-1).cumsum(-1).flip(-1) - counts  # pixels in all higher bins
    background, foreground = counts.unbind(-2)
    n_b, n_f = above.unbind(-2)
    total = foreground.sum(-1, keepdim=True)
    union = total + n_b
    # Difference of the Jaccard loss between the bin's edges, written without a cancellation.
    bin_total = torch.where(
        union > 0,
        (foreground * union + background * (total - n_f))
        / (union * (union + background)).masked_fill(union == 0, 1),
        (background > 0).double(),
    )
    middle = pixel_weights(n_f + foreground / 2, n_b + background / 2, total)
    weights = torch.stack(middle[::-1], dim=-2)
    spent = (weights * counts).sum(-2)
    scale = bin_total / spent.masked_fill(spent == 0, 1)
    return (weights * scale.unsqueeze(-2)).masked_fill(counts == 0, 0)
