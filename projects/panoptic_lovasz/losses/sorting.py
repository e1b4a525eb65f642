"""The Lovász extension by sorting: the definition, in time n log n, for errors of any size.

Source: Berman et al., "The Lovász-Softmax loss", CVPR 2018, equations 7, 8, 11 and 12.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .labels import as_class_weights, check_labels, class_shares, label_range, present_classes

__all__ = ["at_least_float32", "exact_lovasz_softmax", "sorted_loss", "valid_labels"]

# Errors sorted at once: many short rows, or a single long one, for the sake of memory.
SORTED_ELEMENTS = 1 << 22


def exact_lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    classes: str | Sequence[int],
    per_image: bool,
    class_weights: Tensor | Sequence[float] | None,
) -> Tensor:
    """Lovász-Softmax by sorting the errors of all classes that take part, at once."""
    num_images, num_classes = logits.shape[:2]
    num_groups = num_images if per_image else 1
    target = target.flatten(1)
    valid = valid_labels(target, num_classes, ignore_index)
    present = present_classes(target, num_classes, ignore_index, num_groups)
    class_weights = as_class_weights(class_weights, num_classes, logits.device)
    shares = class_shares(present, classes, class_weights) / present.any(1).sum().clamp(min=1)
    taking_part = (shares > 0).any(0).nonzero().flatten()
    with torch.autocast(logits.device.type, enabled=False):
        # Zeros for pixels that do not count: not even a NaN there reaches the others.
        logits = at_least_float32(logits.flatten(2).masked_fill(~valid[:, None], 0))
        probabilities = logits.softmax(1)[:, taking_part]
        foreground = target[:, None] == taking_part[:, None]
        errors = torch.where(foreground, 1 - probabilities, probabilities)
        if not per_image:  # (B, C, N) -> (1, C, B N)
            errors, foreground = (x.transpose(0, 1).flatten(1)[None] for x in (errors, foreground))
            valid = valid.reshape(1, -1)
        losses = sorted_loss(errors, foreground & valid[:, None], valid[:, None])
        return (losses * shares[:, taking_part]).sum().float()


@torch.library.custom_op("panoptic_lovasz::valid_labels", mutates_args=())
def valid_labels(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Which labels count, bool; an operator, since its check looks at values.

    Raises:
        LabelError: a label outside [0, C) that is not ``ignore_index``.
    """
    check_labels(label_range(target, ignore_index), num_classes, ignore_index)
    return (target != ignore_index) & (target >= 0) & (target < num_classes)


@valid_labels.register_fake
def _(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    return torch.empty_like(target, dtype=torch.bool)


def sorted_loss(errors: Tensor, foreground: Tensor, valid: Tensor) -> Tensor:
    """Lovász extension of the Jaccard loss (equations 7 and 8) along the last dimension; float64.

    Args:
        errors: (..., N), not negative.
        foreground: (..., N) bool.
        valid: bool, broadcasts to (..., N): the pixels that count, of which foreground is a part.
    """
    with torch.no_grad():
        key = errors.masked_fill(~valid, -1).flatten(0, -2)  # pixels that do not count come last
        weights = torch.empty_like(key)
        rank = torch.arange(1, key.shape[-1] + 1, device=key.device)
        rows_at_once = max(1, SORTED_ELEMENTS // max(1, key.shape[-1]))
        for own_key, own_foreground, own_weights in zip(
            *(x.split(rows_at_once) for x in (key, foreground.flatten(0, -2), weights)), strict=True
        ):
            order = own_key.argsort(dim=-1, descending=True)
            wrong_foreground = own_foreground.gather(-1, order).cumsum(-1)
            union = own_foreground.sum(-1, keepdim=True) + rank - wrong_foreground
            jaccard = rank / union.double()  # Jaccard loss of the first `rank` pixels
            added = jaccard.diff(prepend=jaccard.new_zeros(len(jaccard), 1))
            own_weights.scatter_(-1, order, added.to(weights.dtype))
        weights = weights.view_as(errors).masked_fill(~valid, 0)
    return (errors * weights).sum(-1, dtype=torch.float64)


def at_least_float32(x: Tensor) -> Tensor:
    """float32 for shorter types, the tensor itself for longer ones."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
