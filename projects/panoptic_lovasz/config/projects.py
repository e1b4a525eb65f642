"""The default config: Detectron2's keys, this project's, and those of Detectron2's own projects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config
from detectron2.projects.point_rend import add_pointrend_config

from ..flat import flatten
from .defaults import add_panoptic_lovasz_config

__all__ = ["add_project_configs", "default_config"]

# The third has the first's keys too, so it is looked at when these are known.
_PROJECTS = (add_deeplab_config, add_pointrend_config, add_panoptic_deeplab_config)


def default_config(keys: Iterable[str] = ()) -> CfgNode:
    """The default values of all keys, with those of the projects whose keys are among ``keys``."""
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    add_project_configs(cfg, keys)
    return cfg


def add_project_configs(cfg: CfgNode, keys: Iterable[str]) -> None:
    """Add the keys of DeepLab, PointRend and Panoptic-DeepLab, with their defaults (in place).

    Args:
        cfg: to which nothing was merged yet: a project sets some of Detectron2's keys again.
        keys: full keys that are to be set; a project whose keys are not among them is left out.
    """
    keys = set(keys)
    for add_config in _PROJECTS:
        if (keys - flatten(cfg).keys()) & _keys(add_config):
            add_config(cfg)
    if "OPTIMIZER" in cfg.SOLVER:  # Panoptic-DeepLab's, with whose keys may come others' networks
        cfg.SOLVER.OPTIMIZER = "SGD"


@functools.cache
def _keys(add_config: Callable[[CfgNode], None]) -> frozenset[str]:
    cfg = get_cfg()
    add_config(cfg)
    return frozenset(flatten(cfg))
