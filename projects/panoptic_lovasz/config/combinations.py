"""Checks of values that depend on others: what contradicts them, and what would have no effect."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from fvcore.common.registry import Registry

from ..flat import flatten
from ..merging import CombineRules
from ..modeling import SEM_SEG_LOSS_REGISTRY

__all__ = ["Check", "combinations", "effects"]

Check = tuple[str, Callable[[Any], bool], str]  # key, whether its value is valid, what is expected

_PANOPTIC_FPNS = ("PanopticFPN", "PanopticLovaszFPN")
_LOSS = "MODEL.SEM_SEG_HEAD.LOSS"


def combinations(cfg: CfgNode) -> Iterator[Check]:
    """The checks for a config, of which each names and each value may be used by itself."""
    yield from _schedule(cfg)
    yield from _network(cfg)
    if cfg.MODEL.META_ARCHITECTURE in _PANOPTIC_FPNS:
        yield from _merging(cfg)


def effects(cfg: CfgNode, defaults: Mapping[str, Any]) -> Iterator[Check]:
    """The checks that what is set for a training has an effect on it; defaults by full key."""
    if "OPTIMIZER" in cfg.SOLVER:
        yield (
            "SOLVER.OPTIMIZER",
            lambda value: value == "SGD",
            "'SGD': another optimizer is a choice of Panoptic-DeepLab's own training script alone",
        )
    mask_head = cfg.MODEL.ROI_MASK_HEAD.NAME
    yield (
        "MODEL.ROI_MASK_HEAD.LOVASZ_WEIGHT",
        lambda value: value == 0 or not _is_stock(ROI_MASK_HEAD_REGISTRY, mask_head),
        f"0 with MODEL.ROI_MASK_HEAD.NAME {mask_head!r}, which has no such loss; "
        "'LovaszMaskHead' has",
    )
    if cfg.MODEL.META_ARCHITECTURE in (*_PANOPTIC_FPNS, "SemanticSegmentor"):
        yield from _semantic_loss(cfg, defaults)


def _schedule(cfg: CfgNode) -> Iterator[Check]:
    solver, lsj = cfg.SOLVER, cfg.INPUT.LSJ
    yield (
        "SOLVER.NESTEROV",
        lambda value: not value or solver.MOMENTUM > 0,
        f"False with SOLVER.MOMENTUM {solver.MOMENTUM}",
    )
    yield (
        "SOLVER.LR_SCHEDULER_NAME",
        lambda value: value != "WarmupPolyLR" or "POLY_LR_POWER" in solver,
        "SOLVER.POLY_LR_POWER beside it (DeepLab has 0.9)",
    )
    yield "SOLVER.EMA.DECAY", lambda value: 0 <= value < 1, "a number from 0 to below 1"
    yield (
        "TEST.EMA",
        lambda value: not value or solver.EMA.ENABLED,
        "False: nothing is averaged without SOLVER.EMA.ENABLED",
    )
    yield (
        "INPUT.LSJ.MAX_SCALE",
        lambda value: value >= lsj.MIN_SCALE,
        f"at least INPUT.LSJ.MIN_SCALE, {lsj.MIN_SCALE}",
    )


def _network(cfg: CfgNode) -> Iterator[Check]:
    model = cfg.MODEL
    thin = model.RESNETS.DEPTH in (18, 34) and model.BACKBONE.NAME.startswith("build_resnet")
    yield (
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        lambda value: not thin or value == 64,
        f"64 with MODEL.RESNETS.DEPTH {model.RESNETS.DEPTH}",
    )
    has_box_head = model.ROI_HEADS.NAME in ("StandardROIHeads", "CascadeROIHeads")
    heads = [name for name, _ in ROI_BOX_HEAD_REGISTRY]
    yield (
        "MODEL.ROI_BOX_HEAD.NAME",
        lambda value: value != "" or not has_box_head,
        f"one of {', '.join(map(repr, heads))} with {model.ROI_HEADS.NAME}",
    )
    if model.META_ARCHITECTURE in _PANOPTIC_FPNS:
        yield "MODEL.MASK_ON", bool, "True: a panoptic segmentation is made of masks"
        yield (
            "MODEL.KEYPOINT_ON",
            lambda value: not value,
            "False: panoptic data has no keypoints to train with",
        )


def _merging(cfg: CfgNode) -> Iterator[Check]:
    last = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1
    yield (
        "MODEL.PANOPTIC_FPN.COMBINE.VOID_LABELS",
        lambda value: all(type(label) is int and 0 <= label <= last for label in value),
        f"labels of the semantic head, from 0 to {last} (MODEL.SEM_SEG_HEAD.NUM_CLASSES)",
    )
    detectron2s = CombineRules.from_config(cfg).are_detectron2s
    yield (
        "MODEL.META_ARCHITECTURE",
        lambda value: value != "PanopticFPN" or detectron2s,
        "'PanopticLovaszFPN' with MODEL.PANOPTIC_FPN.COMBINE.VOID_LABELS or .CONFIDENCE_AWARE: "
        "Detectron2's own merging has no such rules",
    )


def _semantic_loss(cfg: CfgNode, defaults: Mapping[str, Any]) -> Iterator[Check]:
    head, loss = _loss_head(cfg), cfg.MODEL.SEM_SEG_HEAD.LOSS
    if _is_stock(SEM_SEG_HEADS_REGISTRY, head):
        for key in filter(defaults.__contains__, flatten(loss, f"{_LOSS}.")):  # not a plugin's
            yield (
                key,
                functools.partial(operator.eq, defaults[key]),
                f"{defaults[key]!r}, its default, with the head {head!r}, which has a loss of its "
                "own and would ignore it",
            )
    if head != "LovaszSemSegFPNHead":  # DeepLab's have a cross-entropy of their own
        return
    terms = getattr(SEM_SEG_LOSS_REGISTRY.get(loss.NAME), "terms", None)
    if terms is None:  # a loss of the user's
        return
    ce = loss.CE_WEIGHT if "ce" in terms else 0
    region = loss.LOVASZ_WEIGHT if {*terms} - {"ce"} else 0
    yield (
        f"{_LOSS}.{'CE_WEIGHT' if 'ce' in terms else 'LOVASZ_WEIGHT'}",
        lambda value: ce != 0 or region != 0,
        f"a number above 0: {loss.NAME} is 0 otherwise",
    )
    yield (
        f"{_LOSS}.LOVASZ_START_ITER",
        lambda value: value <= 0 or ce != 0,
        f"0: without cross-entropy {loss.NAME} is 0 until then",
    )


def _loss_head(cfg: CfgNode) -> str:
    """The head that the semantic loss is trained in: PointRend has another in its own."""
    name = cfg.MODEL.SEM_SEG_HEAD.NAME
    return cfg.MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME if name == "PointRendSemSegHead" else name


def _is_stock(registry: Registry, name: str) -> bool:
    """Whether it is Detectron2's; what others register may read any key."""
    return name in registry and registry.get(name).__module__.startswith("detectron2.")
