"""Checks of a config's values, Detectron2's own included, before anything is built from them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.solver.build import GradientClipType
from fvcore.common.registry import Registry
from PIL import Image

from ..data.samplers import SAMPLERS
from ..device import usable_device
from ..errors import ConfigError
from ..flat import flatten
from ..modeling import SEM_SEG_LOSS_REGISTRY
from .combinations import Check, combinations, effects
from .projects import default_config

__all__ = ["READ_BY", "check_config", "check_device", "check_proposals", "check_training"]

_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
_POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")

# What Detectron2 and this project know under each key: names, or the registry that has them.
_CHOICES: dict[str, Registry | Iterable] = {
    "INPUT.FORMAT": ("BGR", *Image.MODES, "YUV-BT.601"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.FPN.NORM": _NORMS,
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.PANOPTIC_FPN.COMBINE.IMPL": ("fast", "detectron2"),
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "MODEL.RESNETS.NORM": _NORMS,
    "MODEL.RESNETS.RES5_DILATION": (1, 2, 4),  # 4 with DeepLab's ResNet
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NORM": _NORMS,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NORM": _NORMS,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.SEM_SEG_HEAD.LOSS.NAME": SEM_SEG_LOSS_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NORM": _NORMS,
}
_TRAINING_CHOICES: dict[str, Iterable] = {
    "DATALOADER.SAMPLER_TRAIN": SAMPLERS,
    "INPUT.CROP.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": tuple(kind.value for kind in GradientClipType),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
}
# How the keys begin that a method of the trainer reads: a subclass's own may know other values.
READ_BY = {
    "build_train_loader": ("DATALOADER.", "INPUT."),
    "build_optimizer": ("SOLVER.CLIP_GRADIENTS.", "SOLVER.OPTIMIZER"),
    "build_lr_scheduler": ("SOLVER.LR_SCHEDULER_NAME", "SOLVER.WARMUP_"),
}
_MORE_NAMES = {  # what works beside the registered ones
    "MODEL.PROPOSAL_GENERATOR.NAME": ("PrecomputedProposals",),
    "MODEL.ROI_BOX_HEAD.NAME": ("",),  # Res5ROIHeads has none
}
_ABOVE_0 = (
    *("INPUT.LSJ.IMAGE_SIZE", "INPUT.LSJ.MIN_SCALE", "INPUT.LSJ.MAX_SCALE"),
    *("INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST", "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"),
    *("MODEL.FPN.OUT_CHANNELS", "MODEL.RESNETS.NUM_GROUPS", "MODEL.RESNETS.WIDTH_PER_GROUP"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "MODEL.RESNETS.RES2_OUT_CHANNELS"),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "MODEL.RPN.PRE_NMS_TOPK_TEST"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "MODEL.RPN.POST_NMS_TOPK_TEST"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "MODEL.ROI_BOX_HEAD.CONV_DIM", "MODEL.ROI_MASK_HEAD.CONV_DIM"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE"),
    *("SOLVER.ACCUMULATE_STEPS", "SOLVER.BASE_LR", "SOLVER.CHECKPOINT_PERIOD"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "SOLVER.CLIP_GRADIENTS.NORM_TYPE"),
    *("SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "TEST.DETECTIONS_PER_IMAGE"),
    "TEST.PRECISE_BN.NUM_ITER",
)
_NOT_BELOW_0 = (
    *("DATALOADER.NUM_WORKERS", "DATALOADER.REPEAT_THRESHOLD", "INPUT.MIN_SIZE_TEST"),
    *("MODEL.BACKBONE.FREEZE_AT", "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT"),
    *("MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT", "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"),
    *("MODEL.ROI_BOX_HEAD.NUM_FC", "MODEL.ROI_BOX_HEAD.NUM_CONV", "MODEL.ROI_MASK_HEAD.NUM_CONV"),
    *("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"),
    *("MODEL.RPN.BBOX_REG_LOSS_WEIGHT", "MODEL.RPN.LOSS_WEIGHT", "MODEL.RPN.SMOOTH_L1_BETA"),
    *("MODEL.ROI_MASK_HEAD.LOVASZ_WEIGHT", "OUTPUT.NUM_PICTURES", "SOLVER.BIAS_LR_FACTOR"),
    *("SOLVER.GAMMA", "SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_ITERS"),
    *("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM"),
    *("SOLVER.REFERENCE_WORLD_SIZE", "TEST.EVAL_PERIOD", "VIS_PERIOD"),
)
_FROM_0_TO_1 = (
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", "MODEL.RPN.NMS_THRESH"),
    *("MODEL.PANOPTIC_FPN.COMBINE.MARGIN", "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH"),
    "MODEL.RPN.POSITIVE_FRACTION",
    *("MODEL.ROI_HEADS.NMS_THRESH_TEST", "MODEL.ROI_HEADS.POSITIVE_FRACTION"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "SOLVER.MOMENTUM"),
)
_MAY_BE_NONE = {"SOLVER.WEIGHT_DECAY_NORM"}  # Detectron2 then decays like all the others


def check_config(cfg: CfgNode) -> None:
    """Check every value of which it is known what it may be.

    Names are looked up in Detectron2's registries, so what you registered before is known.

    Raises:
        ConfigError: one line with the key, the value and what is possible.
    """
    values, defaults = flatten(cfg), _defaults()
    # one after the other: combinations take it that each value can be used by itself
    _raise_first(values, _single(values, defaults), _lists(cfg), combinations(cfg))
    check_proposals(cfg)
    loss = SEM_SEG_LOSS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME)
    if hasattr(loss, "from_config"):
        loss.from_config(cfg)  # a loss knows best what its options may be


def check_training(cfg: CfgNode, own_builders: Collection[str] = ()) -> None:
    """Check, of a checked config, what a training alone reads, and that it has an effect on it.

    Args:
        cfg: the config.
        own_builders: the methods of ``READ_BY`` that are not the trainer's; their keys may have any
            value.

    Raises:
        ConfigError: one line with the key, the value and what is possible or has an effect.
    """
    any_value = tuple(start for name in own_builders for start in READ_BY[name])
    checks = itertools.chain(_choices(_TRAINING_CHOICES), effects(cfg, _defaults()))
    _raise_first(flatten(cfg), (check for check in checks if not check[0].startswith(any_value)))


def _raise_first(values: dict[str, Any], *checks: Iterable[Check]) -> None:
    for key, valid, expected in itertools.chain(*checks):
        if not valid(values[key]):
            raise ConfigError(f"{key} is {values[key]!r}, expected {expected}")


def check_proposals(cfg: CfgNode) -> None:
    """Refuse precomputed proposals, which Detectron2 unpickles, unless the user trusts them.

    Raises:
        ConfigError: for MODEL.LOAD_PROPOSALS without MODEL.TRUST_WEIGHTS.
    """
    if cfg.MODEL.LOAD_PROPOSALS and not cfg.MODEL.TRUST_WEIGHTS:
        raise ConfigError(
            "MODEL.LOAD_PROPOSALS is True, expected False: the files in DATASETS.PROPOSAL_FILES_* "
            "are pickles, which can run code. If you trust their authors, set MODEL.TRUST_WEIGHTS "
            "True"
        )


def check_device(cfg: CfgNode) -> None:
    """Check that MODEL.DEVICE is there.

    Raises:
        ConfigError: if it is not, or not a device.
    """
    hint = "--num-gpus 0, or MODEL.DEVICE cpu, trains on the CPU"
    usable_device(cfg.MODEL.DEVICE, "MODEL.DEVICE", hint)


@functools.cache
def _defaults() -> dict[str, Any]:
    return flatten(default_config())


def _single(values: dict[str, Any], defaults: dict[str, Any]) -> Iterator[Check]:
    """Checks of values that are one name or number."""
    for key, default in defaults.items():
        if default is not None and key in values and key not in _MAY_BE_NONE:
            expected = f"a value of the type {type(default).__name__}, such as {default!r}"
            yield key, lambda value: value is not None, expected
        if isinstance(default, float) and key != "SOLVER.CLIP_GRADIENTS.NORM_TYPE":
            yield key, lambda value: value is None or math.isfinite(value), "a finite number"
    yield from _choices(_CHOICES)
    for key in _ABOVE_0:
        yield key, lambda value: value > 0, "a number above 0"
    for key in _NOT_BELOW_0:
        yield key, lambda value: value is None or value >= 0, "a number not below 0"
    for key in _FROM_0_TO_1:
        yield key, lambda value: 0 <= value <= 1, "a number from 0 to 1"


def _choices(choices: dict[str, Any]) -> Iterator[Check]:
    for key, names in choices.items():
        names = [name for name, _ in names] if isinstance(names, Registry) else list(names)
        names += _MORE_NAMES.get(key, ())
        yield key, names.__contains__, f"one of {', '.join(map(repr, names))}"


def _lists(cfg: CfgNode) -> Iterator[Check]:
    """Checks of values that are lists of numbers."""
    channels = len(cfg.MODEL.PIXEL_MEAN)
    above_0 = _numbers(lambda x: x > 0)
    yield "MODEL.PIXEL_MEAN", _numbers(), "one number for each channel"
    yield (
        "MODEL.PIXEL_STD",
        lambda value: above_0(value) and len(value) == channels,
        f"a number above 0 for each of the {channels} channels of MODEL.PIXEL_MEAN",
    )
    span = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
    yield (
        "INPUT.MIN_SIZE_TRAIN",
        lambda value: above_0(value) and (not span or len(value) == 2),
        "two sizes above 0, the least and the greatest, since INPUT.MIN_SIZE_TRAIN_SAMPLING is "
        "'range'"
        if span
        else "sizes above 0",
    )
    relative = cfg.INPUT.CROP.TYPE.startswith("relative")
    yield (
        "INPUT.CROP.SIZE",
        lambda value: above_0(value) and len(value) == 2 and (not relative or max(value) <= 1),
        f"height and width above 0{', at most 1 of the image' if relative else ', in pixels'}",
    )
    yield (
        "SOLVER.STEPS",
        lambda value: not value or (_numbers()(value) and sorted(value) == list(value)),
        "iterations in increasing order",
    )
    for key in ("MODEL.RPN.IOU_THRESHOLDS", "MODEL.ROI_HEADS.IOU_THRESHOLDS"):
        yield key, _numbers(lambda x: 0 <= x <= 1), "numbers from 0 to 1"


def _numbers(accepts: Callable[[float], bool] = math.isfinite) -> Callable[[Any], bool]:
    """Whether a value is a list, not empty, of numbers that are accepted."""

    def check(value: Any) -> bool:
        is_list = isinstance(value, (list, tuple)) and len(value) > 0
        return is_list and all(
            isinstance(x, (int, float)) and math.isfinite(x) and accepts(x) for x in value
        )

    return check
