"""Which of two claims to a pixel is the more confident: the instance's or the stuff class's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.structures import Instances

from .labels import CLASSES_PER_CHUNK, HeadLogits, semantic_logits

__all__ = ["instance_confidence", "stuff_confidence"]


def stuff_confidence(logits: HeadLogits) -> torch.Tensor:
    """Softmax probability of the most probable semantic class, (H, W) float32 in (0, 1]."""
    top = torch.full(logits.size, -torch.inf, device=logits.values.device)
    total = top.clone()
    for start in range(0, len(logits.values), CLASSES_PER_CHUNK):
        chunk = semantic_logits(logits.classes(start, start + CLASSES_PER_CHUNK)).float()
        top = torch.maximum(top, chunk.amax(dim=0))
        total = torch.logaddexp(total, chunk.logsumexp(dim=0))
    return (top - total).exp()


def instance_confidence(
    instances: Instances,
    mask_probabilities: torch.Tensor,
    owner: torch.Tensor,
    accepted: torch.Tensor,
    order: torch.Tensor,
) -> torch.Tensor:
    """Score times mask probability of every pixel's instance, (H, W) float32, 0 where none is.

    Args:
        instances: in the output's size, with ``scores`` and ``pred_boxes``.
        mask_probabilities: (N, M, M) inside the boxes.
        owner, accepted, order: see :func:`.merge_torch.accept`.
    """
    confidence = torch.zeros(owner.shape, device=owner.device)
    scores, boxes = instances.scores[order], instances.pred_boxes.tensor[order]
    masks = mask_probabilities[order, None]
    positions: Iterable[int] = range(len(order))
    on_cpu = owner.device.type == "cpu"
    if on_cpu:  # elsewhere asking which ones, or for their boxes, would wait for the device
        positions = accepted.nonzero().flatten().tolist()
    for i in positions:
        one = slice(i, i + 1)
        probability, window = _do_paste_mask(masks[one], boxes[one], *owner.shape, on_cpu)
        here = confidence[window]
        here.copy_(torch.where(owner[window] == i + 1, scores[i] * probability[0].float(), here))
    return confidence
