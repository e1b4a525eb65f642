"""Models by name: published ones, those of the project's own configs, and Detectron2's zoo."""

from __future__ import annotations

import builtins
import difflib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import CfgNode
from detectron2.model_zoo.model_zoo import _ModelZooUrls
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from ..checkpoint import Checkpoint, SafeCheckpointer, find_checkpoint, load_weights
from ..config import load_config, load_found_config
from ..device import choose_device
from ..errors import CheckpointError, ConfigError
from ..modeling import clear_build_errors
from .index import Entry, fetch, project_folder, read_index

__all__ = ["find_model", "get", "get_checkpoint", "get_config", "list"]

Zoo = str | os.PathLike | None


def get(
    name: str, trained: bool = True, *, device: str | torch.device | None = None, zoo: Zoo = None
) -> nn.Module:
    """Build a model by name.

    Args:
        name: a name that :func:`list` gives, with or without ``.yaml``.
        trained: load the published weights, all of them; otherwise what the config's
            ``MODEL.WEIGHTS`` names to start a training from, such as ImageNet weights.
        device: by default the config's, or the CPU where there is no CUDA.
        zoo: see :func:`~.index.read_index`.

    Returns:
        The model, in training mode, as from Detectron2's ``model_zoo.get``.

    Raises:
        ConfigError: if the name is unknown or has no weights, or the device is not there.
        CheckpointError: if the weights are not what the index promises, unsafe, or do not fit.
    """
    cfg = get_config(name, trained, zoo=zoo)
    hint = "device='cpu' builds the model on the CPU"
    cfg.MODEL.DEVICE = choose_device(device, cfg.MODEL.DEVICE, hint)
    with clear_build_errors(cfg):
        model = build_model(cfg)
    if trained:
        load_weights(model, cfg.MODEL.WEIGHTS)
    else:
        SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def get_config(name: str, trained: bool = False, *, zoo: Zoo = None) -> CfgNode:
    """The config of a model by name.

    Args:
        name, zoo: see :func:`get`.
        trained: set ``MODEL.WEIGHTS`` to the published weights.

    Raises:
        ConfigError: if the name is unknown or has no weights, or its config is not for this
            package's versions.
        DatasetError: if the config leaves the numbers of classes to a data set that is not there.
    """
    entries = read_index(zoo)
    opts = ["MODEL.WEIGHTS", _weights(name, entries)] if trained else []
    load = load_found_config if _key(name) in entries else load_config
    return load(_config_file(name, entries), opts)


def get_checkpoint(name: str, *, zoo: Zoo = None) -> str:
    """The weights of a model by name: a local file whose hash was checked, or Detectron2's URL.

    Raises:
        ConfigError: if the name is unknown or has no weights.
        CheckpointError: if the file is not what the index promises.
    """
    return _weights(name, read_index(zoo))


def list(trained: bool = False, *, zoo: Zoo = None) -> builtins.list[str]:
    """The names that can be asked for, sorted.

    Args:
        trained: only those with weights.
        zoo: see :func:`~.index.read_index`.
    """
    return _names(read_index(zoo), trained)


def find_model(path_or_name: str | os.PathLike, *, zoo: Zoo = None) -> Checkpoint:
    """Find weights, config and classes by a path, a URL of a published model, or a name.

    A file or folder of that name comes first.

    Raises:
        ConfigError: if there is no such file, folder or name.
        CheckpointError: if a published file is damaged.
    """
    name = os.fspath(path_or_name)
    if os.path.exists(name):
        return find_checkpoint(name)
    if "://" in name:
        try:
            local = PathManager.get_local_path(name)
        except Exception as error:  # of any type: iopath's handlers raise their own
            raise CheckpointError(f"checkpoint {name} cannot be read: {error}") from error
        return find_checkpoint(local)
    entries = read_index(zoo)
    weights = _weights(name, entries)
    if _key(name) in entries:
        return find_checkpoint(weights)
    return Checkpoint(weights, _config_file(name, entries), None, is_own=True)


def _weights(name: str, entries: dict[str, Entry]) -> str:
    key = _key(name)
    if key in entries:
        return fetch(entries[key].file, entries[key].sha256)
    if key not in _own_configs() and key in _detectron2_names():
        return detectron2_zoo.get_checkpoint_url(f"{key}.yaml")
    _config_file(name, entries)  # raises if the name is unknown
    raise ConfigError(
        f"'{name}' is a config without trained weights; train it, or choose one of "
        f"{_names(entries, trained=True)}"
    )


def _config_file(name: str, entries: dict[str, Entry]) -> str:
    key = _key(name)
    if key in entries:
        return fetch(entries[key].config, entries[key].config_sha256)
    if key in _own_configs():
        return str(_own_configs()[key])
    if key in _detectron2_names():
        return detectron2_zoo.get_config_file(f"{key}.yaml")
    known = {*_names(entries), *_detectron2_names()}
    similar = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise ConfigError(f"'{name}' is not a file, a folder or a name of the model zoo{hint}")


def _names(entries: Iterable[str], trained: bool = False) -> builtins.list[str]:
    names = {*entries, *(n for n in _detectron2_names() if "panoptic" in n)}
    return sorted(names if trained else names | _own_configs().keys())


def _key(name: str) -> str:
    return name.removesuffix(".yaml")


def _own_configs() -> dict[str, Path]:
    """The project's configs by name."""
    folder = project_folder("configs")
    files = {f for f in folder.rglob("*.yaml") if not f.name.startswith("Base-")}
    return {f.relative_to(folder).with_suffix("").as_posix(): f for f in files}


def _detectron2_names() -> set[str]:
    """Names of Detectron2's zoo that have weights and a YAML config."""
    return {
        name
        for name in _ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX
        if not name.startswith("new_baselines/")  # these are lazy configs, in Python
    }
