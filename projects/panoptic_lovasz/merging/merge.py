"""Instances and semantic labels merged into one panoptic segmentation.

The rules, and bit for bit the results, are those of Detectron2's
``combine_semantic_and_instance_outputs`` (Kirillov et al., "Panoptic Feature Pyramid Networks",
2019, Sec. 3; panopticapi's ``combine_semantic_and_instance_predictions.py``). The passes over the
pixels stay within the instances' boxes and never wait for a GPU; one table is copied from it at
the end.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from detectron2.structures import Instances

from ..compiled import compiled_kernels
from .kernels import merge_torch
from .rules import CombineRules

__all__ = ["merge_panoptic"]

KERNELS = f"{__package__}.kernels.merge_{{}}"

StuffWins = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Merged(NamedTuple):
    """A merge whose results may still be on the device."""

    panoptic_seg: torch.Tensor  # (H, W) int32
    summary: torch.Tensor  # (4 N + 2 K,) float64, see _summary
    num_instances: int
    num_labels: int


def merge_panoptic(
    instances: Instances, semantic_labels: torch.Tensor, rules: CombineRules
) -> tuple[torch.Tensor, list[dict]]:
    """Detectron2's ``combine_semantic_and_instance_outputs``, faster and equal bit for bit.

    1. Instances are taken in the order of their scores, down to
       ``rules.instances_confidence_thresh``. One without pixels, or of whose mask more than the
       share ``rules.overlap_thresh`` is taken already, is dropped; any other gets those of its
       pixels that are free.
    2. The pixels left go to their semantic label, in ascending order of labels, if they are at
       least ``rules.stuff_area_limit``. Label 0, which stands for all things, and
       ``rules.void_labels`` are not stuff; their pixels stay 0.

    Args:
        instances: with ``scores`` (N,), ``pred_classes`` (N,) and ``pred_masks`` (N, H, W) bool.
        semantic_labels: (H, W) integers from 0 on, on the masks' device.
        rules: all but the confidence-aware one, which needs more than labels: see
            :func:`.postprocess_panoptic`.

    Returns:
        panoptic_seg: (H, W) int32 of segment ids from 1 on, 0 where there is no segment.
        segments_info: per segment "id", "isthing" and "category_id" (contiguous), for things
            "score" and "instance_id" (index into ``instances``), for stuff "area" in pixels.

    Raises:
        ValueError: masks and labels of different sizes, a negative label, or the confidence-aware
            rule.
    """
    if rules.confidence_aware:
        raise ValueError("confidence_aware needs logits, not labels: use postprocess_panoptic")
    if instances.pred_masks.shape[1:] != semantic_labels.shape:
        raise ValueError(
            f"pred_masks has the shape {tuple(instances.pred_masks.shape)} and semantic_labels "
            f"{tuple(semantic_labels.shape)}, expected (N, H, W) and (H, W)"
        )
    masks = instances.pred_masks.to(semantic_labels.device, torch.bool)
    lowest, highest = (int(m) for m in semantic_labels.aminmax())
    if lowest < 0:
        raise ValueError(f"semantic_labels has the label {lowest}, but labels start at 0.")
    height, width = semantic_labels.shape
    whole = torch.tensor([[0, height, 0, width]], dtype=torch.int32, device=masks.device)
    regions = whole.expand(len(masks), 4).contiguous()
    merged = merge_on_device(instances, masks, regions, semantic_labels, highest + 1, rules)
    return merged.panoptic_seg, segments_info(merged, merged.summary.tolist())


def merge_on_device(
    instances: Instances,
    masks: torch.Tensor,
    regions: torch.Tensor,
    labels: torch.Tensor,
    num_labels: int,
    rules: CombineRules,
    stuff_wins: StuffWins | None = None,
) -> Merged:
    """:func:`merge_panoptic` before the results are copied to the host.

    Args:
        instances: with ``scores`` and ``pred_classes``, (N,).
        masks: theirs, (N, H, W) bool.
        regions: (N, 4) int32, y0, y1, x0, x1: no pixel of the mask lies outside.
        labels: (H, W) integers in [0, num_labels).
        num_labels: number K of labels.
        stuff_wins: given owner and accepted (see :func:`.merge_torch.accept`) and the order,
            tells which pixels their instance, if they have one, yields to their stuff label: (H, W)
            bool. They go back to the instance if the stuff is too small; an instance left without
            any is dropped.
    """
    passes = compiled_kernels(KERNELS, masks.device, _agrees) or merge_torch
    scores = instances.scores
    order = torch.argsort(-scores)  # the very call of Detectron2: ties are in its order
    unsure = scores[order].double() < rules.instances_confidence_thresh
    active = unsure.cumsum(dim=0) == 0
    owner, accepted = passes.accept(masks, regions, order, active, rules.overlap_thresh)
    stuff = torch.ones(num_labels, dtype=torch.bool, device=labels.device)
    for label in {0, *rules.void_labels}:
        stuff[label : label + 1] = False
    yielded = stuff_wins(owner, accepted, order) if stuff_wins else None
    claimed = owner if yielded is None else owner.masked_fill(yielded, 0)
    free, present = passes.count_stuff(labels, claimed, num_labels)
    stuff &= present & (free.double() >= rules.stuff_area_limit)
    if yielded is not None:
        owner = owner.masked_fill(yielded & stuff[labels.long()], 0)
        accepted = passes.count_stuff(owner, owner, len(order) + 1)[1][1:]
    instance_ids = accepted.cumsum(0, dtype=torch.int32) * accepted
    stuff_ids = (stuff.cumsum(0, dtype=torch.int32) + accepted.sum(dtype=torch.int32)) * stuff
    panoptic_seg = passes.fill(labels, owner, instance_ids, stuff_ids)
    summary = _summary(order, accepted, instances.pred_classes, scores, stuff, free)
    return Merged(panoptic_seg, summary, len(order), num_labels)


def _agrees(kernels: ModuleType, device: torch.device) -> bool:
    """Whether kernels accept the instances that the plain passes accept."""
    masks = torch.zeros(3, 40, 150, dtype=torch.bool, device=device)
    regions = [[0, 30, 0, 140], [5, 40, 20, 150], [30, 40, 0, 10]]
    for mask, (y0, y1, x0, x1) in zip(masks, regions, strict=True):
        mask[y0:y1, x0:x1] = True
    order, active = torch.tensor([2, 0, 1], device=device), torch.ones_like(masks[:, 0, 0])
    arguments = masks, torch.tensor(regions, dtype=torch.int32, device=device), order, active, 0.5
    expected, found = merge_torch.accept(*arguments), kernels.accept(*arguments)
    return all(map(torch.equal, found, expected))


def _summary(order, accepted, classes, scores, stuff, free) -> torch.Tensor:
    """One float64 table, exact for all of it, so that one copy brings everything to the host."""
    columns = [order, accepted, classes[order], scores[order], stuff, free]
    return torch.cat([column.double() for column in columns])


def segments_info(merged: Merged, summary: list[float]) -> list[dict]:
    """Detectron2's ``segments_info``, its fields in their order, from ``merged.summary``."""
    n, k = merged.num_instances, merged.num_labels
    segments: list[dict[str, Any]] = []
    columns = (summary[start : start + n] for start in range(0, 4 * n, n or 1))
    for index, accepted, category, score in zip(*columns, strict=True):
        if accepted:
            segments.append(
                {
                    "id": len(segments) + 1,
                    "isthing": True,
                    "score": score,
                    "category_id": int(category),
                    "instance_id": int(index),
                }
            )
    stuff, area = summary[4 * n : 4 * n + k], summary[4 * n + k :]
    for label in range(k):
        if stuff[label]:
            segments.append(
                {
                    "id": len(segments) + 1,
                    "isthing": False,
                    "category_id": label,
                    "area": int(area[label]),
                }
            )
    return segments
