"""Mask R-CNN's mask head with the Lovász loss of each region's mask beside its cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, mask_rcnn_loss
from detectron2.structures import Instances

from ..losses import lovasz_sigmoid

__all__ = ["LovaszMaskHead", "mask_lovasz_loss"]


@ROI_MASK_HEAD_REGISTRY.register()
class LovaszMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's ``MaskRCNNConvUpsampleHead``, trained for the IoU of its masks as well.

    Its parameters and its ``loss_mask`` are Detectron2's. ``loss_mask_lovasz`` is the Lovász
    extension of the Jaccard loss (Berman et al. 2018, equation 7) of each region's mask, averaged
    over the regions that have foreground.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, lovasz_weight: float = 0.0, **kwargs):
        """
        Args:
            input_shape: shape of the pooled features.
            lovasz_weight: factor of the Lovász loss within the mask loss; with 0 it is not
                computed.
            **kwargs: the arguments of ``MaskRCNNConvUpsampleHead``.
        """
        super().__init__(input_shape, **kwargs)
        self.lovasz_weight = lovasz_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Add ``MODEL.ROI_MASK_HEAD.LOVASZ_WEIGHT`` to the head's arguments."""
        ret = super().from_config(cfg, input_shape)
        return {**ret, "lovasz_weight": cfg.MODEL.ROI_MASK_HEAD.LOVASZ_WEIGHT}

    def forward(self, x: torch.Tensor, instances: list[Instances]) -> Any:
        """
        Args:
            x: pooled features (N, C, M / 2, M / 2) of all regions of all images.
            instances: of each image, in training with ``proposal_boxes``, ``gt_classes`` and
                ``gt_masks``.

        Returns:
            In training ``loss_mask`` and, if it has a weight, ``loss_mask_lovasz``; in inference
            the instances with ``pred_masks``.
        """
        if not self.training or self.lovasz_weight == 0:
            return super().forward(x, instances)
        logits = self.layers(x)
        cross_entropy = mask_rcnn_loss(logits, instances, self.vis_period)
        lovasz = mask_lovasz_loss(logits, instances) * self.lovasz_weight
        return {
            "loss_mask": cross_entropy * self.loss_weight,
            "loss_mask_lovasz": lovasz * self.loss_weight,
        }


def mask_lovasz_loss(logits: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
    """Lovász loss of the masks of foreground regions, each region a map of its own.

    Args:
        logits: (N, C, M, M), or (N, 1, M, M) where masks are class-agnostic.
        instances: of each image, N together, with ``proposal_boxes``, ``gt_classes`` and
            ``gt_masks``.

    Returns:
        0-dim float32; 0 with zero gradients if there is no region.
    """
    if len(logits) == 0:
        return logits.sum() * 0
    side = logits.shape[-1]
    some = [i for i in instances if len(i)]
    masks = torch.cat(
        [i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, side).to(logits.device) for i in some]
    )
    classes = torch.cat([i.gt_classes for i in some])
    if logits.shape[1] == 1:
        classes = torch.zeros_like(classes)
    own = logits[torch.arange(len(logits), device=logits.device), classes]
    return lovasz_sigmoid(own, masks > 0.5, per_image=True)
