"""Publish a trained model: weights and all that belongs to them in one file, and stock formats."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict

from .. import __version__
from ..checkpoint.averaged import averaged_weights
from ..checkpoint.folder import find_checkpoint
from ..checkpoint.formats import read_weights
from ..checkpoint.published import ModelInfo, read_found_config, read_model_info
from ..config import load_found_config, set_options, shareable
from ..config.found import DATA_KEYS, take_allowed
from ..data.classes import PanopticClasses
from ..data.register import get_panoptic_classes
from ..errors import CheckpointError, ConfigError, DatasetError
from ..files import write_bytes, write_text
from ..reporting.records import read_results

__all__ = ["PublishedFiles", "describe", "publish", "read_metrics"]

logger = logging.getLogger(__name__)


class PublishedFiles(NamedTuple):
    """What :func:`publish` wrote; every weights file has the start of its SHA-256 in its name.

    Attributes:
        info: what the model says about itself.
        safetensors, config: always there.
        stock: the weights in Detectron2's own formats, .pth and .pkl; empty if not asked for.
    """

    info: ModelInfo
    safetensors: Path
    config: Path
    stock: tuple[Path, ...] = ()


def publish(
    source: str | os.PathLike,
    name: str,
    output_dir: str | os.PathLike,
    *,
    license: str | None = None,
    half: bool = False,
    stock_formats: bool = True,
    trust_weights: bool = False,
) -> PublishedFiles:
    """Write a checkpoint, without the optimizer, as files to share.

    ``NAME_xxxxxxxx.safetensors`` holds all that a prediction needs: weights, config, classes, and
    besides metrics, data set, versions and license. ``NAME_xxxxxxxx.pth`` and ``.pkl`` hold the
    weights as Detectron2's own tools read them, ``NAME.yaml`` the config. The same input gives the
    same bytes.

    Args:
        source: see :func:`~.folder.find_checkpoint`.
        name: letters, digits, ``.``, ``_``, ``-`` and ``+``, but not at its end ``.yaml``.
        output_dir: folder to write into; made if it is not there.
        license: the weights' license; by default what the source says, if it is a published model,
            of which the metrics and the data set's name are kept, too.
        half: store floating-point numbers in half precision, in half the bytes; a model computes in
            single precision with them.
        stock_formats: write ``.pth`` and ``.pkl``, too.
        trust_weights: load a pickle of any content, which may run code.

    Raises:
        ConfigError: if the name cannot be one, the config is not there, or the classes are
            unknown: not in the checkpoint's folder, and the data set is not there either.
        CheckpointError: if the weights are damaged or unsafe.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name, re.ASCII):
        raise ConfigError(
            f"the name {name!r} must start with a letter or digit and go on with these, '.', '_', "
            "'-' and '+'"
        )
    if name.endswith(".yaml"):  # which names of the model zoo may have or not
        raise ConfigError(f"the name {name!r} must not end in '.yaml': give it without")
    checkpoint = find_checkpoint(source)
    cfg = load_found_config(checkpoint.config_file)
    weights, iteration = _read_model(Path(checkpoint.weights), trust_weights, cfg.TEST.EMA)
    classes = checkpoint.classes or _classes_of_data(cfg)
    metrics = read_metrics(Path(checkpoint.weights).parent, iteration)
    before = read_model_info(checkpoint.weights)
    license = license or (before.license if before else "not stated")
    if before:  # its data sets stay, whatever lies here under their names
        written, _ = take_allowed(read_found_config(checkpoint.config_file), cfg)
        kept = [x for key in DATA_KEYS if key in written for x in (key, written[key])]
        set_options(cfg, kept, f"config {checkpoint.config_file}")
    info = describe(cfg, name, classes=classes, metrics=metrics, license=license)
    if before:
        info = replace(info, metrics=before.metrics, dataset=before.dataset)
    if not info.metrics:
        logger.warning(f"results.csv has no evaluation of {checkpoint.weights}: none is published")
    if half:
        weights = {key: _halve(key, tensor) for key, tensor in weights.items()}
    return _write(info, weights, Path(output_dir), stock_formats)


def describe(
    cfg: CfgNode,
    name: str,
    *,
    classes: PanopticClasses,
    metrics: Mapping[str, Any],
    license: str,
) -> ModelInfo:
    """What a model says about itself when it is shared.

    Args:
        cfg: its config, of which what is true on one machine only is left out.
        metrics: by name, or nested as an evaluation returns them; those that are finite are kept.
        name, classes, license: see :class:`ModelInfo`.

    Raises:
        ConfigError: if a metric is not a number.
    """
    shared = shareable(cfg)
    shared.TEST.EMA = False  # what is shared is one set of weights
    return ModelInfo(
        name=name,
        config=shared.dump(),
        classes=classes,
        metrics=_finite(metrics),
        dataset=", ".join(cfg.DATASETS.TRAIN),
        license=license,
        versions=_versions(),
    )


def read_metrics(folder: str | Path, iteration: int | None) -> dict[str, float]:
    """Metrics of the evaluation that a training's ``results.csv`` has of one of its checkpoints.

    Args:
        folder: OUTPUT_DIR.
        iteration: the checkpoint's own, counted from 0.

    Returns:
        Metrics by name, those that are finite; empty if there is no such evaluation.
    """
    if iteration is None:
        return {}
    done = [row for row in read_results(Path(folder)) if row.pop("iteration") == iteration + 1]
    return _finite({k: v for row in done for k, v in row.items()})


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by ``task/metric`` as plain numbers, without those that are NaN or infinite."""
    numbers = {}
    for name, value in flatten_results_dict(metrics).items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the metric {name!r} is {value!r}, expected a number") from error
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _classes_of_data(cfg: CfgNode) -> PanopticClasses:
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("the classes are unknown: no classes.json, and DATASETS.TRAIN is empty")
    try:
        return get_panoptic_classes(cfg.DATASETS.TRAIN)
    except DatasetError as error:
        raise ConfigError(f"the classes are unknown: no classes.json, and {error}") from error


def _read_model(
    file: Path, trusted: bool, averaged: bool
) -> tuple[dict[str, torch.Tensor], int | None]:
    loaded = read_weights(file, trusted=trusted)
    model = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if averaged:
        model = averaged_weights(loaded, file)
    if not isinstance(model, dict):
        raise CheckpointError(f"weights {file} are a {type(model).__name__}, expected a dict")
    if not model:
        raise CheckpointError(f"weights {file} have no tensors")
    tensors = {}
    for key, value in model.items():
        try:
            tensors[key] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"weights {file}: {key} is a {type(value).__name__}, expected a tensor"
            ) from error
    iteration = loaded.get("iteration")
    return tensors, iteration if isinstance(iteration, int) else None


def _versions() -> dict[str, str]:
    return {
        "torch": str(torch.__version__),
        "detectron2": detectron2.__version__,
        "panoptic_lovasz": __version__,
    }


def _halve(key: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not torch.equal(halved.isfinite(), tensor.isfinite()):
        raise CheckpointError(
            f"{key} has the value {tensor.abs().max():g}, which half precision cannot hold "
            "(at most 65504): publish this model without it"
        )
    return halved


def _write(
    info: ModelInfo, weights: dict[str, torch.Tensor], folder: Path, stock_formats: bool
) -> PublishedFiles:
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    content = {".safetensors": _sort_metadata(save(weights, info.to_metadata()))}
    if stock_formats:
        content |= _in_stock_formats(weights)
    files = []
    for suffix, data in content.items():
        file = folder / f"{info.name}_{hashlib.sha256(data).hexdigest()[:8]}{suffix}"
        write_bytes(file, data)
        files.append(file)
    config = folder / f"{info.name}.yaml"
    write_text(config, info.config)
    return PublishedFiles(info, files[0], config, tuple(files[1:]))


def _in_stock_formats(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    author = "panoptic_lovasz"
    arrays = {key: _as_array(tensor) for key, tensor in weights.items()}
    pth = io.BytesIO()
    torch.save({"model": weights, "__author__": author}, pth)
    pkl = pickle.dumps({"model": arrays, "__author__": author}, protocol=4)
    return {".pth": pth.getvalue(), ".pkl": pkl}


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _sort_metadata(content: bytes) -> bytes:
    """Put the metadata, which safetensors writes in random order, into the order of its names."""
    # The library keeps them in a hash map and has no option for an order; one field alone would
    # have one, but readers of other projects look for "format", and people for the rest.
    end = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors after it stay aligned
    return len(text).to_bytes(8, "little") + text + content[end:]
