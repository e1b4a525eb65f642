"""Backbones from timm (PyTorch Image Models), as the bottom-up network of Detectron2's FPN."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn

from ..errors import ConfigError
from ..flat import flatten
from ..timm_models import require_timm

__all__ = ["TimmBackbone", "build_timm_backbone", "build_timm_fpn_backbone", "set_timm_input"]

_NORMS = ("BN", "FrozenBN", "SyncBN")
_BUILDERS = ("build_timm_backbone", "build_timm_fpn_backbone")
_FORMAT, _MEAN, _STD = "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"


class TimmBackbone(Backbone):
    """The feature maps of a timm model, named after their stride as Detectron2 names a ResNet's:
    "res2" has stride 4, "res5" stride 32; of several with one stride the last counts.

    The parameters are timm's, below ``network``.
    """

    @configurable
    def __init__(
        self,
        name: str,
        *,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        drop_path_rate: float = 0.0,
        channels_last: bool = False,
    ):
        """
        Args:
            name: one of ``timm.list_models()``, with random weights.
            out_features: the names of the feature maps to return, in order of their stride.
            norm: what becomes of the model's batch normalization: trained ("BN"), with statistics
                of all processes ("SyncBN"), or constant ("FrozenBN"). Others are left as they are.
            freeze_at: freeze all layers up to the n-th feature map of the model, the
                normalization among them; 0 freezes none. Of a ResNet, 1 is the stem.
            drop_path_rate: probability in [0, 1) that the last block is skipped in training,
                growing linearly from 0 at the first (stochastic depth, Huang et al. 2016).
            channels_last: keep weights and maps in PyTorch's channels-last memory format, which
                depthwise convolutions on a CPU are faster in; shapes stay (B, C, H, W).

        Raises:
            ConfigError: timm is not installed or has no such model, or the model does not give
                these feature maps, takes images of certain sizes only or knows no such option.
        """
        super().__init__()
        timm = require_timm(name)
        self.timm_name = name  # by which checkpoints know whose weights these are
        if norm not in _NORMS:
            raise ConfigError(f"MODEL.TIMM.NORM is {norm!r}, expected one of {', '.join(_NORMS)}")
        if not 0 <= drop_path_rate < 1:
            raise ConfigError(
                f"MODEL.TIMM.DROP_PATH_RATE is {drop_path_rate}, expected from 0 to below 1"
            )
        if timm.get_pretrained_cfg(name).fixed_input_size:
            raise ConfigError(
                f"MODEL.TIMM.NAME is {name!r}, which takes images of one size only; expected a "
                "model for images of any size, such as a convolutional one"
            )
        options = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        try:
            network = timm.create_model(name, features_only=True, **options)
        except (RuntimeError, TypeError, AssertionError, AttributeError) as error:
            raise ConfigError(
                f"MODEL.TIMM.NAME {name!r} cannot be a backbone"
                f"{f' with DROP_PATH_RATE {drop_path_rate}' if options else ''}: {error}"
            ) from error
        if freeze_at:
            _freeze(network, freeze_at)
        if norm == "FrozenBN":
            network = timm.layers.freeze_batch_norm_2d(network)
        elif norm == "SyncBN":
            network = timm.layers.convert_sync_batchnorm(network)
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.network = network
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._index = _feature_indices(network, name, out_features)
        info = network.feature_info
        self._out_features = list(out_features)
        channels, strides = info.channels(), info.reduction()  # of the maps that it returns
        self._out_feature_channels = {f: channels[i] for f, i in self._index.items()}
        self._out_feature_strides = {f: strides[i] for f, i in self._index.items()}
        self._gives_nhwc = str(getattr(network, "output_fmt", "NCHW")) == "NHWC"
        self._check_maps()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Take ``cfg.MODEL.TIMM`` and ``cfg.MODEL.BACKBONE.FREEZE_AT``."""
        options = cfg.MODEL.TIMM
        return {
            "name": options.NAME,
            "out_features": options.OUT_FEATURES,
            "norm": options.NORM,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "drop_path_rate": options.DROP_PATH_RATE,
            "channels_last": options.CHANNELS_LAST,
        }

    @torch.no_grad()
    def _check_maps(self) -> None:
        """Raise a ConfigError if the maps of a small image have other shapes than is promised."""
        stride = max(shape.stride for shape in self.output_shape().values())
        size = (3 * stride, 5 * stride)  # odd multiples: what only larger ones fit shows
        promised = {
            name: (shape.channels, *(side // shape.stride for side in size))
            for name, shape in self.output_shape().items()
        }
        self.eval()  # nothing is drawn, and no statistics are changed
        try:
            maps = self(torch.zeros(1, 3, *size))
            found: Any = {name: tuple(feature.shape[1:]) for name, feature in maps.items()}
        except Exception as error:  # of any type: whatever a model asks of its input
            found = f"{type(error).__name__} {error}".strip()
        self.train()
        if found != promised:
            raise ConfigError(
                f"MODEL.TIMM.NAME {self.timm_name!r} cannot be a backbone: an image {(3, *size)} "
                f"gives {found}, expected {promised}"
            )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W), H and W divisible by the largest stride s, to feature maps
        (B, C, H / s, W / s) by name."""
        features = self.network(x.contiguous(memory_format=self._memory_format))
        if self._gives_nhwc:
            features = [f.permute(0, 3, 1, 2).contiguous() for f in features]
        return {name: features[i] for name, i in self._index.items()}


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the timm model that ``cfg.MODEL.TIMM`` names.

    Raises:
        ConfigError: see :class:`TimmBackbone`; and if ``cfg`` normalizes images differently from
            how the model was trained, see :func:`set_timm_input`.
    """
    for key, value in _input_of(cfg.MODEL.TIMM.NAME).items():
        _check_input(cfg, key, value)
    return TimmBackbone(cfg)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN on :func:`build_timm_backbone`, as ``build_resnet_fpn_backbone``."""
    return FPN(
        bottom_up=build_timm_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def set_timm_input(cfg: CfgNode, given: Collection[str]) -> None:
    """Normalize images as the timm model was trained; nothing is done for another backbone.

    Args:
        cfg: gets INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD (in place).
        given: keys that the user has set, which are left alone.

    Raises:
        ConfigError: if a given value contradicts the model.
    """
    if cfg.MODEL.BACKBONE.NAME not in _BUILDERS:
        return
    for key, value in _input_of(cfg.MODEL.TIMM.NAME).items():
        if key in given:
            _check_input(cfg, key, value)
        else:
            cfg.merge_from_list([key, value])


def _input_of(name: str) -> dict[str, Any]:
    """The input's description by config key: timm's mean and deviation are of RGB in 0..1."""
    trained = require_timm(name).get_pretrained_cfg(name)
    mean, std = ([round(255 * v, 3) for v in values] for values in (trained.mean, trained.std))
    return {_FORMAT: "RGB", _MEAN: mean, _STD: std}


def _check_input(cfg: CfgNode, key: str, expected: Any) -> None:
    found = flatten(cfg)[key]
    same = found == expected
    if key != _FORMAT:
        same = len(found) == len(expected) and all(
            math.isclose(a, b, rel_tol=1e-3) for a, b in zip(found, expected, strict=True)
        )
    if not same:
        raise ConfigError(
            f"{key} is {found!r}, but the timm model {cfg.MODEL.TIMM.NAME} was trained with "
            f"{expected!r}: set it to that, or leave it out and read the config by load_config"
        )


def _feature_indices(network: Any, name: str, wanted: Sequence[str]) -> dict[str, int]:
    """Position among the network's feature maps by the names wanted."""
    available = {
        f"res{int(math.log2(stride))}": i
        for i, stride in enumerate(network.feature_info.reduction())
    }
    missing = [f for f in wanted if f not in available]
    if missing:
        raise ConfigError(
            f"MODEL.TIMM.OUT_FEATURES: the model {name!r} has no {', '.join(missing)}; it gives "
            f"{', '.join(available)} (resN has stride 2^N)"
        )
    return {f: available[f] for f in wanted}


def _freeze(network: Any, count: int) -> None:
    """Freeze everything up to the ``count``-th feature map, in place."""
    from timm.utils import freeze

    stages = network.feature_info.module_name()
    if count > len(stages):
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT is {count}, expected 0 to {len(stages)}, the number of the "
            "model's feature maps"
        )
    known = dict(network.named_modules())
    last = stages[count - 1]
    # timm renames the modules of some models when it takes them apart
    candidates = [n for n in (last, last.replace(".", "_"), f"model.{last}") if n in known]
    if not candidates:
        raise ConfigError(f"MODEL.BACKBONE.FREEZE_AT is {count}, but this model allows only 0")
    freeze(network, list(_names_until(network, candidates[0])))


def _names_until(module: nn.Module, target: str) -> Iterator[str]:
    """Names of the submodules that come before ``target``, and its own."""
    head, _, rest = target.partition(".")
    for name, child in module.named_children():
        if name != head:
            yield name
            continue
        yield from (f"{name}.{n}" for n in _names_until(child, rest)) if rest else (name,)
        return
