"""Region losses of counted errors: Lovász-Softmax, and soft Jaccard, Dice and Tversky.

All come from one pass of counters. With ``G`` foreground pixels of a class, and ``e_f`` and
``e_b`` the sums of the errors of its foreground and background pixels, the Tversky loss is

    1 - (G - e_f) / T,    T = G - e_f + alpha e_b + beta e_f

(Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully
convolutional deep networks", MLMI 2017, equation 4; alpha weighs false positives, beta false
negatives). alpha = beta = 1 is the soft Jaccard loss and alpha = beta = 1/2 the soft Dice loss.
Nothing is added to numerator or denominator for smoothness: a class that is absent but takes part
has the value 1 and no gradient of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .counters import bin_weights
from .options import LossOptions

__all__ = ["region_loss"]


def region_loss(
    counts: Tensor, errors: Tensor, shares: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """The region term and its derivative with respect to the errors of the pixels in each bin.

    Args:
        counts: (G, C, 2, K) float64, pixels per group, class, background (0) or foreground (1)
            and bin; see :func:`.counters.unpack`.
        errors: the same shape, sums of their errors.
        shares: (G, C) float64, share of each class in the term.

    Returns:
        0-dim float64, and (G, C, 2, K) float64.
    """
    shares = shares[:, :, None, None]
    if options.region == "lovasz":
        weights = bin_weights(counts) * shares
        return (weights * errors).sum(), weights
    e_b, e_f = errors.sum(-1, keepdim=True).split(1, dim=2)
    total = counts[:, :, 1:].sum(-1, keepdim=True)
    alpha, beta = tversky_weights(options)
    union = (total - e_f + alpha * e_b + beta * e_f).clamp(min=torch.finfo(total.dtype).tiny)
    w_f = (alpha * e_b + beta * total) / union / union
    w_b = alpha * (total - e_f) / union / union
    value = (shares * (1 - (total - e_f) / union)).sum()
    return value, (torch.cat((w_b, w_f), dim=2) * shares).expand_as(counts)


def tversky_weights(options: LossOptions) -> tuple[float, float]:
    """Weights of false positives and of false negatives in ``options.region``."""
    known = {"jaccard": (1.0, 1.0), "dice": (0.5, 0.5)}
    return known.get(options.region, (options.tversky_alpha, options.tversky_beta))
