"""Instances and semantic labels merged into one panoptic segmentation.

The rules, and bit for bit the results, are those of Detectron2's
``combine_semantic_and_instance_outputs`` (Kirillov et al., "Panoptic Feature Pyramid Networks",
2019, Sec. 3; panopticapi's ``combine_semantic_and_instance_predictions.py``). The passes over the
pixels stay within the instances' boxes and never wait for a GPU; one table is copied from it at
the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from detectron2.structures import Instances

__all__ = ["merge_panoptic"]

StuffWins = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Merged(NamedTuple):
    """A merge whose results may still be on the device."""

    panoptic_seg: torch.Tensor  # (H, W) int32
    summary: torch.Tensor  # (4 N + 2 K,) float64, see _summary
    num_instances: int
    num_labels: int


def merge_panoptic(
    instances: Instances,
    semantic_labels: torch.Tensor,
    overlap_threshold: float,
    stuff_area_thresh: float,
    instances_score_thresh: float,
    *,
    void_labels: Sequence[int] = (),
) -> tuple[torch.Tensor, list[dict]]:
    """Detectron2's ``combine_semantic_and_instance_outputs``, faster and equal bit for bit.

    1. Instances are taken in the order of their scores, down to ``instances_score_thresh``. One
       without pixels, or of whose mask more than the share ``overlap_threshold`` is taken
       already, is dropped; any other gets those of its pixels that are free.
    2. The pixels left go to their semantic label, in ascending order of labels, if they are at
       least ``stuff_area_thresh``. Label 0 stands for all things and is no stuff.

    Args:
        instances: with ``scores`` (N,), ``pred_classes`` (N,) and ``pred_masks`` (N, H, W) bool.
        semantic_labels: (H, W) integers from 0 on, on the masks' device.
        overlap_threshold: in [0, 1].
        stuff_area_thresh: in pixels.
        instances_score_thresh: in [0, 1].
        void_labels: semantic labels that are not stuff either; their pixels stay 0.

    Returns:
        panoptic_seg: (H, W) int32 of segment ids from 1 on, 0 where there is no segment.
        segments_info: per segment "id", "isthing" and "category_id" (contiguous), for things
            "score" and "instance_id" (index into ``instances``), for stuff "area" in pixels.

    Raises:
        ValueError: a negative label.
    """
    masks = instances.pred_masks.to(semantic_labels.device, torch.bool)
    lowest, highest = (int(m) for m in semantic_labels.aminmax())
    if lowest < 0:
        raise ValueError(f"semantic_labels has the label {lowest}, but labels start at 0.")
    height, width = semantic_labels.shape
    regions = torch.tensor([[0, height, 0, width]], dtype=torch.int32, device=masks.device)
    merged = merge_on_device(
        instances.scores,
        instances.pred_classes,
        masks,
        regions.expand(len(masks), 4).contiguous(),
        semantic_labels,
        highest + 1,
        overlap_threshold,
        stuff_area_thresh,
        instances_score_thresh,
        void_labels,
    )
    return merged.panoptic_seg, segments_info(merged, merged.summary.tolist())


def merge_on_device(
    scores: torch.Tensor,
    classes: torch.Tensor,
    masks: torch.Tensor,
    regions: torch.Tensor,
    labels: torch.Tensor,
    num_labels: int,
    overlap_threshold: float,
    stuff_area_thresh: float,
    instances_score_thresh: float,
    void_labels: Sequence[int] = (),
    stuff_wins: StuffWins | None = None,
) -> Merged:
    """:func:`merge_panoptic` before the results are copied to the host.

    Args:
        scores, classes, masks: as in :func:`merge_panoptic`.
        regions: (N, 4) int32, y0, y1, x0, x1: no pixel of the mask lies outside.
        labels: (H, W) integers in [0, num_labels).
        num_labels: number K of labels.
        stuff_wins: given owner and accepted (see :func:`.merge_torch.accept`) and the order,
            tells which pixels their instance, if they have one, yields to their stuff label: (H, W)
            bool. They go back to the instance if the stuff is too small; an instance left without
            any is dropped.
    """
    passes = _passes_for(masks.device)
    order = torch.argsort(-scores)  # the very call of Detectron2: ties are in its order
    active = (scores[order].double() < instances_score_thresh).cumsum(dim=0) == 0
    owner, accepted = passes.accept(masks, regions, order, active, overlap_threshold)
    stuff = torch.ones(num_labels, dtype=torch.bool, device=labels.device)
    for label in {0, *void_labels}:
        stuff[label : label + 1] = False
    if stuff_wins is None:
        free, present = passes.count_stuff(labels, owner, num_labels)
        stuff &= present & (free.double() >= stuff_area_thresh)
    else:
        yielded = stuff_wins(owner, accepted, order)
        free, present = passes.count_stuff(labels, owner.masked_fill(yielded, 0), num_labels)
        stuff &= present & (free.double() >= stuff_area_thresh)
        owner = owner.masked_fill(yielded & stuff[labels.long()], 0)
        accepted = passes.count_stuff(owner, owner, len(order) + 1)[1][1:]
    instance_ids = accepted.cumsum(0, dtype=torch.int32) * accepted
    stuff_ids = (stuff.cumsum(0, dtype=torch.int32) + accepted.sum(dtype=torch.int32)) * stuff
    panoptic_seg = passes.fill(labels, owner, instance_ids, stuff_ids)
    summary = _summary(order, accepted, classes, scores, stuff, free)
    return Merged(panoptic_seg, summary, len(order), num_labels)


def _passes_for(device: torch.device) -> ModuleType:
    with contextlib.suppress(ImportError):
        if device.type == "cpu":
            from .kernels import merge_numba

            return merge_numba
        if device.type == "cuda":
            from .kernels import merge_triton

            return merge_triton
    from .kernels import merge_torch

    return merge_torch


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
