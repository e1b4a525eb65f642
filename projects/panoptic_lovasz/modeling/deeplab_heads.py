"""The semantic heads of DeepLabV3+ and Panoptic-DeepLab with a region loss beside their own."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab.semantic_seg import DeepLabV3PlusHead
from detectron2.projects.panoptic_deeplab.panoptic_seg import PanopticDeepLabSemSegHead
from torch import nn

from .losses import as_named, build_sem_seg_loss

__all__ = ["LovaszDeepLabV3PlusHead", "LovaszPanopticDeepLabSemSegHead"]

_CROSS_ENTROPY = "loss_sem_seg_ce"


class _WithRegionLoss(nn.Module):
    """Adds the region term of ``MODEL.SEM_SEG_HEAD.LOSS`` to the losses of a DeepLab head.

    The head keeps its parameters, so that stock checkpoints load, and its cross-entropy with hard
    pixel mining and weights per pixel, ``loss_sem_seg``; ``LOSS.CE_WEIGHT`` has no effect.
    """

    loss_weight: float

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, region_loss: nn.Module, **kwargs):
        """
        Args:
            input_shape: channels and stride of every input feature.
            region_loss: maps logits at ``common_stride`` and labels to a dict of scalar losses, or
                to one; it must hold no parameters.
            **kwargs: the arguments of the head without it.
        """
        # by name: in first place a mapping of a Python config would be taken for the config
        super().__init__(input_shape=input_shape, **kwargs)
        self.region_loss = region_loss

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Add the region loss to the head's arguments."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.SEM_SEG_HEAD.LOSS.CE_WEIGHT = 0.0  # the head has one of its own
        ret = super().from_config(cfg, input_shape)  # type: ignore[misc]  # the other base has it
        return {**ret, "region_loss": build_sem_seg_loss(cfg)}

    def losses(
        self, predictions: torch.Tensor, targets: torch.Tensor, *weights: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            predictions: logits (B, C, H / common_stride, W / common_stride).
            targets: labels (B, H, W), int64, in [0, C) or ``ignore_value``.
            *weights: weights of the pixels in the head's own loss, if it takes any.

        Returns:
            The head's own ``loss_sem_seg`` and the region term, each multiplied by
            ``loss_weight``.
        """
        own = super().losses(predictions, targets, *weights)  # type: ignore[misc]
        region = as_named(self.region_loss(predictions, targets), "loss_sem_seg_region")
        terms = {name: v * self.loss_weight for name, v in region.items() if name != _CROSS_ENTROPY}
        return {**own, **terms}


@SEM_SEG_HEADS_REGISTRY.register()
class LovaszDeepLabV3PlusHead(_WithRegionLoss, DeepLabV3PlusHead):
    """Detectron2's ``DeepLabV3PlusHead`` (Chen et al. 2018) with a region loss beside its own."""


@SEM_SEG_HEADS_REGISTRY.register()
class LovaszPanopticDeepLabSemSegHead(_WithRegionLoss, PanopticDeepLabSemSegHead):
    """Detectron2's ``PanopticDeepLabSemSegHead`` (Cheng et al. 2020) with a region loss as well."""
