"""From the network's raw outputs to an image's semantic, instance and panoptic segmentation."""

from __future__ import annotations

import torch
from detectron2.structures import Instances, ROIMasks
from torch.nn import functional as F

from .confidence import instance_confidence, stuff_confidence
from .labels import HeadLogits, semantic_labels
from .lazy_logits import SemSegLogits
from .merge import Merged, merge_on_device, segments_info
from .paste import paste_masks, paste_regions
from .rules import CombineRules

__all__ = ["postprocess_panoptic"]


@torch.no_grad()
def postprocess_panoptic(
    detections: Instances,
    logits: torch.Tensor,
    image_size: tuple[int, int],
    height: int,
    width: int,
    *,
    scale: int = 4,
    rules: CombineRules | None = None,
) -> dict:
    """What Detectron2's ``PanopticFPN`` returns for an image, bit for bit, but faster.

    On a GPU the host waits once, or twice if the detector returned an empty box.

    Args:
        detections: the detector's output in the network's input size, with ``pred_boxes``,
            ``scores``, ``pred_classes`` and ``pred_masks``, (N, 1, M, M) probabilities. Its
            boxes are rescaled in place, as by ``detector_postprocess``.
        logits: (C, h, w) semantic logits at stride ``scale`` of the padded network input.
        image_size: (height, width) of the network's input without padding.
        height, width: size (H, W) of the output.
        scale: factor by which the logits are upsampled first.
        rules: of merging; Detectron2's defaults if left out.

    Returns:
        "sem_seg": logits (C, H, W), computed when first read (:class:`.SemSegLogits`);
        "instances": ``Instances`` with ``pred_masks`` (N, H, W) bool;
        "panoptic_seg": what :func:`.merge_panoptic` returns.

    Raises:
        FloatingPointError: a box is not finite.
    """
    rules = rules or CombineRules()
    size = (height, width)
    logits = logits.detach()
    # Where autocast interpolates in another type, it casts before: so do we, once and for all.
    logits = logits.to(F.interpolate(logits[None, :, :1, :1], size=2, mode="bilinear").dtype)
    head_logits = HeadLogits(logits, scale, (image_size[0], image_size[1]), size)
    labels = semantic_labels(head_logits)
    instances, is_finite, usable = _rescale(detections, size)
    summary = None
    if _waiting_is_cheap(usable):
        flags = [is_finite.item(), *usable.tolist()]
    else:  # bet on usable boxes: then all that the host must know arrives in one copy
        result, merged = _paste_and_merge(instances, head_logits, labels, rules)
        table = torch.cat([is_finite[None], usable, merged.summary]).tolist()
        flags, summary = table[: len(usable) + 1], table[len(usable) + 1 :]
    if not flags[0]:
        raise FloatingPointError(
            "The detector returned boxes with infinite or NaN coordinates; were the weights "
            "loaded, and did their training diverge?"
        )
    if summary is None or not all(flags):
        result, merged = _paste_and_merge(instances[usable], head_logits, labels, rules)
        summary = merged.summary.tolist()
    return {
        "sem_seg": SemSegLogits(head_logits, labels),
        "instances": result,
        "panoptic_seg": (merged.panoptic_seg, segments_info(merged, summary)),
    }


def _waiting_is_cheap(tensor: torch.Tensor) -> bool:
    return not tensor.is_cuda


def _rescale(detections: Instances, size) -> tuple[Instances, torch.Tensor, torch.Tensor]:
    """``detector_postprocess`` up to the masks, without waiting for the device.

    Returns the instances, whether all boxes are finite, and which are not empty, (N,) bool.
    """
    scale_y, scale_x = (new / old for new, old in zip(size, detections.image_size, strict=True))
    instances = Instances(size, **detections.get_fields())
    boxes = instances.pred_boxes
    boxes.scale(scale_x, scale_y)
    is_finite = boxes.tensor.isfinite().all()
    x, y = boxes.tensor[:, 0::2].clamp(0, size[1]), boxes.tensor[:, 1::2].clamp(0, size[0])
    boxes.tensor = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=-1)
    if instances.has("pred_keypoints"):
        instances.pred_keypoints[:, :, 0] *= scale_x
        instances.pred_keypoints[:, :, 1] *= scale_y
    return instances, is_finite, boxes.nonempty()


def _paste_and_merge(
    instances: Instances, logits: HeadLogits, labels: torch.Tensor, rules: CombineRules
) -> tuple[Instances, Merged]:
    size = instances.image_size
    masks = instances.pred_masks
    probabilities = masks.tensor if isinstance(masks, ROIMasks) else masks[:, 0]
    boxes = instances.pred_boxes.tensor
    result = Instances(size, **instances.get_fields())
    result.pred_masks = pasted = paste_masks(probabilities, boxes, size)

    def stuff_wins(owner, accepted, order):
        mine = instance_confidence(instances, probabilities, owner, accepted, order)
        return stuff_confidence(logits) > mine + rules.margin

    merged = merge_on_device(
        result,
        pasted,
        paste_regions(boxes, size),
        labels,
        len(logits.values),
        rules,
        stuff_wins if rules.confidence_aware else None,
    )
    return result, merged
