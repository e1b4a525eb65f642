"""What a published model says about itself, in the metadata of its safetensors file."""

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

__all__ = ["ModelInfo", "read_model_info", "read_published_config", "sha256_of"]

_FORMAT_KEY, _FORMAT = "panoptic_lovasz", "1"  # version of this metadata
_TEXT_FIELDS = ("name", "config", "dataset", "license")
_FIELDS = (*_TEXT_FIELDS, "classes", "metrics", "versions")
_MAX_CHARACTERS = 2**20  # of a field; a config has some ten thousand
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
            if len(metadata[field]) > _MAX_CHARACTERS:
                raise CheckpointError(
                    f"{source}: the metadata field '{field}' has {len(metadata[field])} "
                    f"characters, expected at most {_MAX_CHARACTERS}"
                )
        where = f"{source}, metadata field"
        return cls(
            **{field: metadata[field] for field in _TEXT_FIELDS},
            classes=classes_from_json(metadata["classes"], f"{where} 'classes'"),
            metrics=_table(metadata["metrics"], (int, float), f"{where} 'metrics'"),
            versions=_table(metadata["versions"], str, f"{where} 'versions'"),
        )


def read_model_info(file: str | Path) -> ModelInfo | None:
    """Read what a published model says about itself; None if the file is no published model.

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
        return None
    promised = _NAME_WITH_HASH.search(file.name)
    if promised and not (found := sha256_of(file)).startswith(promised[1]):
        raise CheckpointError(
            f"{file} is damaged or was changed: its name says that its SHA-256 starts with "
            f"{promised[1]}, but it starts with {found[:8]}"
        )
    return ModelInfo.from_metadata(metadata, str(file))


def read_published_config(file: str | Path) -> dict[str, Any]:
    """The config of a published model, with ``MODEL.WEIGHTS`` set to the file itself.

    Raises:
        CheckpointError: if the file is no published model or damaged, or its config is no YAML of
            plain values or refers to other files.
    """
    info = read_model_info(file)
    where = f"{file}, metadata field 'config'"
    if info is None:
        raise CheckpointError(f"{file} has no config in its metadata; it is no published model")
    try:
        config = yaml.safe_load(info.config)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is no YAML of plain values: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("MODEL"), dict):
        raise CheckpointError(f"{where} is no config: expected sections, MODEL among them")
    if "_BASE_" in config:
        raise CheckpointError(f"{where} inherits from another file by _BASE_; it must be complete")
    config["MODEL"]["WEIGHTS"] = str(file)
    config["MODEL"]["TRUST_WEIGHTS"] = False  # whether to trust is for the user to say
    return config


def sha256_of(file: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as f:
        while block := f.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _table(text: str, value_type: type | tuple[type, ...], where: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is no JSON: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(v, value_type) for v in table.values()):
        raise CheckpointError(f"{where} is not a JSON object of plain values")
    return table
