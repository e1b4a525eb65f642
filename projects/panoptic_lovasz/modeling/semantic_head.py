"""The semantic branch of Panoptic FPN with a loss chosen from ``SEM_SEG_LOSS_REGISTRY``."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from .losses import as_named, build_sem_seg_loss

__all__ = ["LovaszSemSegFPNHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class LovaszSemSegFPNHead(SemSegFPNHead):
    """Detectron2's ``SemSegFPNHead`` with another loss.

    The parameters are those of ``SemSegFPNHead`` (Kirillov et al. 2019, Fig. 3), so that every
    Detectron2 Panoptic FPN checkpoint loads into it as it is.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, loss: nn.Module, **kwargs):
        """
        Args:
            input_shape: channels and stride of every input feature.
            loss: maps logits (B, C, h, w) at ``common_stride`` and labels (B, H, W), int64, to a
                dict of scalar losses, or to one; it must hold no parameters.
            **kwargs: the arguments of ``SemSegFPNHead``; ``loss_weight`` is λs, which multiplies
                every term of ``loss``.
        """
        # by name: in first place a mapping of a Python config would be taken for the config
        super().__init__(input_shape=input_shape, **kwargs)
        self.loss = loss

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Add the loss that ``cfg.MODEL.SEM_SEG_HEAD.LOSS`` describes to the head's arguments."""
        ret = super().from_config(cfg, input_shape)
        ret["loss"] = build_sem_seg_loss(cfg)
        return ret

    def layers(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (B, C, H / common_stride, W / common_stride), in the default memory format.

        A backbone in channels-last hands that on through convolutions; upsampling such logits for
        the labels of an image takes several times as long.
        """
        return super().layers(features).contiguous()

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            predictions: logits (B, C, H / common_stride, W / common_stride) of any float dtype.
            targets: labels (B, H, W), int64, in [0, C) or ``ignore_value``.

        Returns:
            The terms of Ls by name, each multiplied by λs; a loss without names is
            ``loss_sem_seg``, as in ``SemSegFPNHead``.

        Raises:
            ValueError: a label outside [0, C) that is not ``ignore_value``.
        """
        losses = as_named(self.loss(predictions, targets), "loss_sem_seg")
        return {name: loss * self.loss_weight for name, loss in losses.items()}
