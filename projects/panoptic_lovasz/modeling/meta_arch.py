"""Panoptic FPN as Detectron2 builds it, with checked input."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN

from ..errors import DatasetError

__all__ = ["PanopticLovaszFPN"]

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
    cross-entropy plus Lovász-Softmax. Constructor, inputs and outputs are those of Detectron2's
    ``PanopticFPN``.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Build the parts of the model; see ``PanopticFPN``."""
        ret = super().from_config(cfg)
        instance_loss_weight = cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT
        if instance_loss_weight != 1.0:
            # Detectron2 weights Lb and Lm only, because Lc has no entry of its own to multiply.
            weights = ret["roi_heads"].box_predictor.loss_weight
            weights.setdefault("loss_cls", instance_loss_weight)
        return ret

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """
        Args:
            batched_inputs: one dict an image; in training with "image", "sem_seg" and
                "instances", in inference with "image" and, if the output shall have another size
                than the image, "height" and "width".

        Returns:
            In training the losses by name; in inference, per image, "sem_seg", "instances" and
            "panoptic_seg", as ``PanopticFPN`` returns them.

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
        except ValueError as error:
            files = ", ".join(str(item.get("file_name", "?")) for item in batched_inputs)
            raise DatasetError(f"{error} (images of this batch: {files})") from error


def _check_training_item(item: dict) -> None:
    for field, meaning in _REQUIRED_IN_TRAINING.items():
        if field not in item:
            raise DatasetError(
                f"{item.get('file_name', 'an image')}: the field {field!r} ({meaning}) is missing "
                f"from the mapper's output, which has {sorted(item)}; use "
                "PanopticFPNDatasetMapper, or add the field in your own mapper."
            )
