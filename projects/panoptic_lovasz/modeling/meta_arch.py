"""Panoptic FPN as Detectron2 builds it, with checked input and faster post-processing."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from ..errors import ConfigError, DatasetError, LabelError
from ..merging import CombineRules, postprocess_panoptic

__all__ = ["PanopticLovaszFPN", "logits_stride", "semantic_logits"]

_REQUIRED_IN_TRAINING = {
    "image": "the image, a tensor (3, H, W)",
    "sem_seg": "the semantic labels, an int64 tensor (H, W)",
    "instances": "the ground truth of the things, an Instances",
}


@META_ARCH_REGISTRY.register()
class PanopticLovaszFPN(PanopticFPN):
    """Panoptic FPN (Kirillov et al. 2019): a Mask R-CNN branch for things and a semantic branch
    for stuff, on one FPN, trained with

        L = λi (Lc + Lb + Lm) + λs Ls

    where λi is ``MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT``, λs is
    ``MODEL.SEM_SEG_HEAD.LOSS_WEIGHT`` and Ls comes from the semantic head, by default
    cross-entropy plus Lovász-Softmax. Inputs and outputs are those of Detectron2's
    ``PanopticFPN``, bit for bit.
    """

    @configurable
    def __init__(
        self,
        *,
        combine_impl: str = "fast",
        combine_rules: CombineRules = CombineRules(),  # noqa: B008  # frozen
        **kwargs,
    ):
        """
        Args:
            combine_impl: "fast", or "detectron2" for the post-processing of ``PanopticFPN``.
            combine_rules: of merging; "detectron2" knows the thresholds alone.
            **kwargs: the arguments of ``PanopticFPN``, but for its thresholds of merging.

        Raises:
            ConfigError: an unknown ``combine_impl``, or a rule that it does not know.
        """
        super().__init__(
            combine_overlap_thresh=combine_rules.overlap_thresh,
            combine_stuff_area_thresh=combine_rules.stuff_area_limit,
            combine_instances_score_thresh=combine_rules.instances_confidence_thresh,
            **kwargs,
        )
        key = "MODEL.PANOPTIC_FPN.COMBINE"
        if combine_impl not in ("fast", "detectron2"):
            raise ConfigError(f'{key}.IMPL is {combine_impl!r}; it may be "fast" or "detectron2".')
        if combine_impl == "detectron2" and not combine_rules.are_detectron2s:
            raise ConfigError(
                f'{key}.VOID_LABELS and .CONFIDENCE_AWARE need {key}.IMPL "fast": '
                "Detectron2's own merging has no such rules."
            )
        self.combine_impl = combine_impl
        self.combine_rules = combine_rules

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Build the parts of the model; see ``PanopticFPN``."""
        instance_loss_weight = cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT
        # Detectron2 would weight Lb and Lm only, and knows no cascade.
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 1.0
        ret = super().from_config(cfg)
        if instance_loss_weight != 1.0:
            _weight_losses(ret["roi_heads"], instance_loss_weight)
        # The rules have the thresholds of which Detectron2 makes arguments of their own.
        ret = {name: value for name, value in ret.items() if not name.startswith("combine_")}
        ret["combine_impl"] = cfg.MODEL.PANOPTIC_FPN.COMBINE.IMPL
        ret["combine_rules"] = CombineRules.from_config(cfg)
        return ret

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict an image; in training with "image", "sem_seg" and
                "instances", in inference with "image" and, if the output shall have another size
                than the image, "height" and "width".

        Returns:
            In training the losses by name; in inference, per image, "sem_seg", "instances" and
            "panoptic_seg", as ``PanopticFPN`` returns them ("sem_seg" is computed when first
            read, see :class:`.SemSegLogits`).

        Raises:
            DatasetError: in training, when a field is missing or a semantic label is out of
                range; the message names the image.
        """
        if not self.training:
            return self.inference(batched_inputs)
        for item in batched_inputs:
            _check_training_item(item)
        try:
            return super().forward(batched_inputs)
        except LabelError as error:
            files = ", ".join(str(item.get("file_name", "?")) for item in batched_inputs)
            raise DatasetError(f"{error} (images of this batch: {files})") from error

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list:
        """See ``PanopticFPN.inference``."""
        if self.combine_impl == "detectron2" or not do_postprocess:
            return super().inference(batched_inputs, do_postprocess)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        logits = semantic_logits(self.sem_seg_head, features)
        proposals, _ = self.proposal_generator(images, features, None)
        detections, _ = self.roi_heads(images, features, proposals, None)
        del features
        return [
            postprocess_panoptic(
                detected,
                logits_of_image,
                image_size,
                item.get("height", image_size[0]),
                item.get("width", image_size[1]),
                scale=logits_stride(self.sem_seg_head),
                rules=self.combine_rules,
            )
            for detected, logits_of_image, image_size, item in zip(
                detections, logits, images.image_sizes, batched_inputs, strict=True
            )
        ]


def semantic_logits(head: Any, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """A semantic head's logits (B, C, h, w), not upsampled yet where the head lets that be."""
    return head.layers(features) if _only_upsamples(head) else head(features, None)[0]


def logits_stride(head: Any) -> int:
    """The factor by which :func:`semantic_logits` of this head are still to be upsampled."""
    return head.common_stride if _only_upsamples(head) else 1


def _weight_losses(roi_heads: Any, factor: float) -> None:
    """Multiply the weights of the losses of boxes, of every stage of a cascade, and of masks."""
    predictors: Any = roi_heads.box_predictor
    stages: Any = predictors if isinstance(predictors, nn.ModuleList) else [predictors]
    for predictor in stages:
        weights = {"loss_cls": 1.0, **predictor.loss_weight}
        predictor.loss_weight = {name: factor * weight for name, weight in weights.items()}
    roi_heads.mask_head.loss_weight *= factor


def _only_upsamples(head: Any) -> bool:
    """Whether the head only upsamples what its layers give."""
    return type(head).forward is SemSegFPNHead.forward


def _check_training_item(item: dict) -> None:
    for field, meaning in _REQUIRED_IN_TRAINING.items():
        if field not in item:
            raise DatasetError(
                f"{item.get('file_name', 'an image')}: the field {field!r} ({meaning}) is missing "
                f"from the mapper's output, which has {sorted(item)}; use "
                "PanopticFPNDatasetMapper, or add the field in your own mapper."
            )
