"""What a published model says about itself, in its safetensors file or in config.json beside it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..data.classes import PanopticClasses
from ..errors import CheckpointError
from .classes_json import classes_from_json, classes_to_json
from .plain import MAX_CHARACTERS, parse_json, parse_yaml, read_text

__all__ = [
    "HUB_CONFIG",
    "HUB_WEIGHTS",
    "ModelInfo",
    "read_found_config",
    "read_model_info",
    "sha256_of",
]

_FORMAT_KEY, _FORMAT = "panoptic_lovasz", "1"  # version of this metadata
_TEXT_FIELDS = ("name", "config", "dataset", "license")
_FIELDS = (*_TEXT_FIELDS, "classes", "metrics", "versions")
HUB_CONFIG, HUB_WEIGHTS = "config.json", "model.safetensors"  # the Hugging Face Hub's names
_NAME_WITH_HASH = re.compile(r"_([0-9a-f]{8})\.safetensors$")


@dataclass(frozen=True)
class ModelInfo:
    """All that belongs to published weights.

    Attributes:
        name: the model's name.
        config: the full config, as YAML; without the weights' place and the output folder.
        classes: the classes, with their colors.
        metrics: metrics by name ("panoptic_seg/PQ"), most in percent; empty if never evaluated.
        dataset: names of the data sets that it was trained on, separated by commas.
        license: the weights' license.
        versions: versions by package: torch, detectron2, panoptic_lovasz.
    """

    name: str
    config: str
    classes: PanopticClasses
    metrics: dict[str, float]
    dataset: str
    license: str
    versions: dict[str, str]

    def to_metadata(self) -> dict[str, str]:
        """The fields as text, as safetensors keeps them."""
        return {
            "format": "pt",  # says to other readers that these are PyTorch tensors
            _FORMAT_KEY: _FORMAT,
            **{field: getattr(self, field) for field in _TEXT_FIELDS},
            "classes": classes_to_json(self.classes),
            "metrics": json.dumps(self.metrics),
            "versions": json.dumps(self.versions),
        }

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], source: str) -> ModelInfo:
        """Read what :meth:`to_metadata` gave.

        Args:
            metadata: the file's metadata.
            source: the file, for messages.

        Raises:
            CheckpointError: if a field is missing, too long, or not of its form.
        """
        if metadata.get(_FORMAT_KEY) != _FORMAT:
            raise CheckpointError(
                f"{source}: the metadata field '{_FORMAT_KEY}' is "
                f"{metadata.get(_FORMAT_KEY)!r:.50}, expected '{_FORMAT}'; a newer version of "
                "this package wrote it, or something else did"
            )
        for field in _FIELDS:
            if field not in metadata:
                raise CheckpointError(f"{source} has no metadata field '{field}'")
            if len(metadata[field]) > MAX_CHARACTERS:
                raise CheckpointError(
                    f"{source}: the metadata field '{field}' has {len(metadata[field])} "
                    f"characters, expected at most {MAX_CHARACTERS}"
                )
        where = f"{source}, metadata field"
        return cls(
            **{field: metadata[field] for field in _TEXT_FIELDS},
            classes=classes_from_json(metadata["classes"], f"{where} 'classes'"),
            metrics=_table(metadata["metrics"], (int, float), f"{where} 'metrics'"),
            versions=_table(metadata["versions"], str, f"{where} 'versions'"),
        )


def read_model_info(file: str | Path) -> ModelInfo | None:
    """Read what a published model says about itself; None if the file is not a published model.

    A ``model.safetensors`` without metadata of its own has it in the ``config.json`` beside it.

    Raises:
        CheckpointError: if the file is damaged, or not the one that its name's hash stands for, or
            a metadata field is missing, too long, or not of its form.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(file)
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weights {file} cannot be read: {error}") from error
    if _FORMAT_KEY not in metadata:
        config_file = file.with_name(HUB_CONFIG)
        is_hub = file.name == HUB_WEIGHTS and config_file.is_file()
        return _read_hub_config(config_file) if is_hub else None
    promised = _NAME_WITH_HASH.search(file.name)
    if promised and not (found := sha256_of(file)).startswith(promised[1]):
        raise CheckpointError(
            f"{file} is damaged or was changed: its name says that its SHA-256 starts with "
            f"{promised[1]}, but it starts with {found[:8]}"
        )
    return ModelInfo.from_metadata(metadata, str(file))


def _read_hub_config(file: Path) -> ModelInfo | None:
    """Read a ``config.json``; None if it is another library's."""
    content = parse_json(read_text(file), str(file))
    if not isinstance(content, dict) or _FORMAT_KEY not in content:
        return None
    try:  # floats as YAML writes them: its readers take JSON's 1e-05 for text
        content["config"] = yaml.safe_dump(content.get("config"))
        fields = {k: v if isinstance(v, str) else json.dumps(v) for k, v in content.items()}
    except RecursionError as error:
        raise CheckpointError(f"{file}: its values are nested too deeply") from error
    return ModelInfo.from_metadata(fields, str(file))


def read_found_config(file: str | Path) -> dict[str, Any]:
    """Read the config that was found with weights, as nested values.

    Args:
        file: a published model, or a YAML file.

    Raises:
        CheckpointError: if there is no config in it, or it is not YAML of plain values or refers
            to other files.
    """
    file = Path(file)
    where, text = str(file), None
    if file.suffix == ".safetensors":
        info = read_model_info(file)
        if info is None:
            raise CheckpointError(f"{file} has no config in its metadata; it is not published")
        where, text = f"{file}, metadata field 'config'", info.config
    config = parse_yaml(read_text(file) if text is None else text, where)
    if not isinstance(config, dict) or not isinstance(config.get("MODEL"), dict):
        raise CheckpointError(f"{where} is not a config: expected sections, MODEL among them")
    if "_BASE_" in config:
        raise CheckpointError(f"{where} inherits from another file by _BASE_; it must be complete")
    return config


def sha256_of(file: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as f:
        while block := f.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _table(text: str, value_type: type | tuple[type, ...], where: str) -> dict[str, Any]:
    table = parse_json(text, where)
    if not isinstance(table, dict) or not all(isinstance(v, value_type) for v in table.values()):
        raise CheckpointError(f"{where} is not a JSON object of plain values")
    return table
