"""ImageNet weights of torchvision's and timm's ResNets, under Detectron2's names."""

from __future__ import annotations

import re

from torch import Tensor

__all__ = ["is_torchvision_resnet", "rename_torchvision_resnet"]

_RULES = (  # in this order
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"downsample\.0\.", "shortcut."),
    (r"downsample\.1\.", "shortcut.norm."),
)


def is_torchvision_resnet(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's (and timm's) ``ResNet``."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= weights.keys()


def rename_torchvision_resnet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights Detectron2's names, ``backbone.bottom_up.res2.0.conv1.weight`` and so on.

    The classifier is left out. The network must have ``RESNETS.STRIDE_IN_1X1: False`` and RGB
    input normalised as torchvision's.
    """
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("fc."):
            continue
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        renamed[f"backbone.bottom_up.{name}"] = tensor
    return renamed
