"""Configs read from files and options, with class counts from the data."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from ..checkpoint.published import read_published_config
from ..data.register import register_from_config, set_class_counts
from ..errors import CheckpointError, ConfigError
from .defaults import add_panoptic_lovasz_config

__all__ = ["flatten", "load_config", "set_options"]


def load_config(config_file: str | os.PathLike, opts: Sequence[Any] = ()) -> CN:
    """Load a YAML config, register the data sets that it names and take class counts from them.

    A class count in a file, or in one that inherits from it, must be that of the data; a base's
    count is dropped where DATASETS.TRAIN replaces the base's data.

    Args:
        config_file: path of the config; it may inherit with ``_BASE_``. Or a published model
            (.safetensors), whose config then has it as ``MODEL.WEIGHTS``.
        opts: KEY, VALUE, KEY, VALUE ... that come after the file, as on the command line.

    Returns:
        The config, not frozen.

    Raises:
        ConfigError: for a missing file, an unknown key, a value of a wrong type, or class counts
            that contradict the data.
        DatasetError: if a data set is needed to know the class counts and is not there.
    """
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    config_file, opts = os.fspath(config_file), list(opts)
    try:
        if config_file.endswith(".safetensors"):
            written = read_published_config(config_file)
            levels = [list(flatten(written))]
            cfg.merge_from_other_cfg(CN(written))
        else:
            levels = _keys_by_file(config_file)
            cfg.merge_from_file(config_file, allow_unsafe=False)
    except CheckpointError:
        raise
    except Exception as error:  # YAML and yacs raise errors of many types
        raise ConfigError(f"config {config_file}: {_message(error, cfg)}") from error
    set_options(cfg, opts, f"options {' '.join(map(str, opts))}")
    register_from_config(cfg)
    given: set[str] = set()
    for keys in (*levels, opts[::2]):
        if "DATASETS.TRAIN" in keys:
            given = set()  # class counts of a base are those of the base's data
        given.update(keys)
    set_class_counts(cfg, given)
    return cfg


def set_options(cfg: CN, opts: Sequence[Any], where: str) -> None:
    """Set KEY, VALUE, KEY, VALUE ... in a config (in place).

    Raises:
        ConfigError: for an unknown key, a value of a wrong type, or a key without a value; starts
            with ``where``.
    """
    try:
        if len(opts) % 2:  # yacs only asserts it: under python -O the key would be ignored
            raise ValueError(f"{opts[-1]} has no value")
        cfg.merge_from_list(list(opts))
    except Exception as error:  # yacs raises errors of many types
        raise ConfigError(f"{where}: {_message(error, cfg)}") from error


def _keys_by_file(config_file: str) -> list[list[str]]:
    """List the keys that a config file sets, after those of its bases."""
    with PathManager.open(config_file, "r") as f:
        content = yaml.safe_load(f) or {}
    if not isinstance(content, dict):
        raise ValueError(f"expected keys and values, found {type(content).__name__}")
    bases = content.pop(BASE_KEY, [])
    levels = []
    for base in bases if isinstance(bases, list) else [bases]:
        levels += _keys_by_file(
            os.path.join(os.path.dirname(config_file), os.path.expanduser(base))
        )
    return [*levels, list(flatten(content))]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested config by their full keys, such as "SOLVER.MAX_ITER"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _message(error: Exception, cfg: CN) -> str:
    """What an error says, with the known key that is most like an unknown one."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    unknown = re.search(r"Non-existent (?:config )?key: (\S+)", text)
    if unknown:
        similar = difflib.get_close_matches(unknown[1], flatten(cfg), n=1)
        text += f"; did you mean {similar[0]}?" if similar else ""
    return text
