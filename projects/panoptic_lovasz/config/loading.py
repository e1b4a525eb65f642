"""Configs read from files and options, with class counts from the data."""

from __future__ import annotations

import difflib
import importlib
import itertools
import logging
import os
import re
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any

import yaml
from detectron2.config import CfgNode as CN
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from ..checkpoint.published import read_found_config
from ..data.class_counts import COUNT_KEYS, set_class_counts
from ..data.register import register_from_config
from ..errors import ConfigError, DatasetError
from ..flat import flatten
from ..modeling.backbones import set_timm_input
from .checking import check_config
from .found import DATA_KEYS, take_allowed
from .projects import add_project_configs, default_config

__all__ = ["load_config", "load_found_config", "set_options", "shareable"]

logger = logging.getLogger(__name__)

# Environment variable: modules of the user's own, with commas, that register losses, backbones ...
# A function add_config(cfg) of such a module adds its keys, with their defaults.
PLUGINS_VARIABLE = "PANOPTIC_LOVASZ_PLUGINS"

_TYPE_MISMATCH = re.compile(  # yacs's message
    r"Type mismatch \(<class '(.*)'> vs\. <class '(.*)'>\) with values \((.*) vs\. (.*)\) "
    r"for config key: (\S+)",
    re.DOTALL,
)


def load_config(config_file: str | os.PathLike, opts: Sequence[Any] = ()) -> CN:
    """Load a YAML config, register the data sets that it names and take class counts from them.

    A class count in a file, or in one that inherits from it, must be that of the data; a base's
    count is dropped where DATASETS.TRAIN replaces the base's data. With a timm backbone the same
    goes for how it expects its input.

    Args:
        config_file: path of the config, which is trusted with all that a config can say but code;
            it may inherit with ``_BASE_``. Or a published model (.safetensors), whose config then
            has it as ``MODEL.WEIGHTS``; see :func:`load_found_config`.
        opts: KEY, VALUE, KEY, VALUE ... that come after the file, as on the command line.

    Returns:
        The config, not frozen.

    Raises:
        ConfigError: for a missing file, an unknown key, a value that cannot be used, or class
            counts that contradict the data.
        DatasetError: if a data set is needed to know the class counts and is not there.
    """
    config_file = os.fspath(config_file)
    if config_file.endswith(".safetensors"):
        return load_found_config(config_file, opts)
    cfg = _default_config()
    try:
        levels = _keys_by_file(config_file)
        add_project_configs(cfg, [*itertools.chain(*levels), *opts[::2]])
        cfg.merge_from_file(config_file, allow_unsafe=False)
    except Exception as error:  # YAML and yacs raise errors of many types
        raise ConfigError(f"config {config_file}: {_message(error, cfg)}") from error
    return _complete(cfg, levels, opts)


def load_found_config(config_file: str | os.PathLike, opts: Sequence[Any] = ()) -> CN:
    """Load, as :func:`load_config` does, a config that was found with weights.

    Nobody vouches for it, so it is taken for what it may say (:mod:`.found`): what builds the
    network, prepares its input, trains and tests it. Where to read and write, what to trust, and
    the device, stay as ``opts`` or the defaults have them; one line tells what was left out. Its
    data sets are left out, too, if one here has the name or the place of one of them and is
    another: the classes are the model's.

    Args:
        config_file: a YAML file that needs no other, or a published model.
        opts: KEY, VALUE, KEY, VALUE ... that the user sets.

    Raises:
        ConfigError, DatasetError: see :func:`load_config`.
        CheckpointError: if there is no such config, or it is not YAML of plain values.
    """
    config_file, opts = os.fspath(config_file), list(opts)
    if config_file.endswith(".safetensors"):
        opts = ["MODEL.WEIGHTS", config_file, *opts]
    cfg = _default_config()
    written = read_found_config(config_file)
    add_project_configs(cfg, [*flatten(written), *opts[::2]])
    taken, left_out = take_allowed(written, cfg)
    reasons = [
        f"{key} ({reason})" if reason else key
        for key, reason in left_out.items()
        if key not in opts[::2]
    ]
    if reasons:
        logger.warning(
            f"config {config_file} came with the weights, so not all of it is taken; left as you "
            f"or the defaults have it: {', '.join(reasons)}"
        )
    set_options(cfg, [x for pair in taken.items() for x in pair], f"config {config_file}")
    found = [key for key in DATA_KEYS if key not in opts[::2]]
    return _complete(cfg, [list(taken)], opts, found)


def shareable(cfg: CN) -> CN:
    """A config with what :func:`load_found_config` takes, and defaults for all else."""
    shared = _default_config()
    add_project_configs(shared, flatten(cfg))
    taken, _ = take_allowed(cfg, shared)
    set_options(shared, [x for pair in taken.items() for x in pair], "config")
    return shared


def _default_config() -> CN:
    cfg = default_config()
    for plugin in _import_plugins():
        if hasattr(plugin, "add_config"):
            plugin.add_config(cfg)
    return cfg


def _import_plugins() -> list[ModuleType]:
    names = [name for name in os.getenv(PLUGINS_VARIABLE, "").split(",") if name]
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ImportError as error:
            raise ConfigError(
                f"${PLUGINS_VARIABLE} names the module {name!r}, which cannot be imported: {error}"
            ) from error
    return modules


def _complete(
    cfg: CN, levels: Sequence[Sequence[str]], opts: Sequence[Any], found: Sequence[str] = ()
) -> CN:
    """Add the options, and what the data says, to a config (in place).

    Args:
        levels: the keys that are set by each file, a base before what inherits from it.
        found: keys of data sets that came with weights, and give way to the data that is here.
    """
    set_options(cfg, opts, f"options {' '.join(map(str, opts))}")
    levels = [*levels, opts[::2]]
    given = _given(levels, "DATASETS.TRAIN")
    try:
        _take_data(cfg, given)
    except (ConfigError, DatasetError) as error:
        counts_are_known = "DATASETS.TRAIN" not in found or COUNT_KEYS.keys() <= given
        if not found or not counts_are_known or not COUNT_KEYS.keys().isdisjoint(opts[::2]):
            raise
        logger.warning(
            f"{' and '.join(found)} that came with {cfg.MODEL.WEIGHTS or 'the weights'} are left "
            "out: a data set here has the name or the place of one of theirs, and is another or "
            f"cannot be read: {error}. The model keeps its classes"
        )
        set_options(cfg, [x for key in found for x in (key, ())], "config")
        _take_data(cfg, given)
    if cfg.MODEL.SEM_SEG_HEAD.NAME == "PointRendSemSegHead":
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    set_timm_input(cfg, _given(levels, "MODEL.BACKBONE.NAME", "MODEL.TIMM.NAME"))
    check_config(cfg)
    return cfg


def _take_data(cfg: CN, given: Collection[str]) -> None:
    """Register the data sets and take class counts from them, where these were not given."""
    register_from_config(cfg)
    if cfg.MODEL.META_ARCHITECTURE != "PanopticDeepLab":  # counts things among semantic classes
        set_class_counts(cfg, given)


def _given(levels: Sequence[Sequence[str]], *subjects: str) -> set[str]:
    """The keys that are set where one of the subjects is, or after it: before, they are about
    what a base has in its place."""
    given: set[str] = set()
    for keys in levels:
        if any(subject in keys for subject in subjects):
            given = set()
        given.update(keys)
    return given


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


def _message(error: Exception, cfg: CN) -> str:
    """What an error says in one line, with the known key or section most like an unknown one."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    unknown = re.search(r"Non-existent (?:config )?key: (\S+)", text)
    if unknown:
        paths = [itertools.accumulate(key.split("."), "{}.{}".format) for key in flatten(cfg)]
        similar = difflib.get_close_matches(unknown[1], {*itertools.chain(*paths)}, n=1)
        text += f"; did you mean {similar[0]}?" if similar else ""
        text += f" (a plugin's key needs the plugin in ${PLUGINS_VARIABLE})"
    mismatch = _TYPE_MISMATCH.fullmatch(text)
    if mismatch:
        expected, found, default, value, key = mismatch.groups()
        text = f"{key} is {value} of the type {found}, expected the type {expected}, as {default}"
    return " ".join(text.split())
