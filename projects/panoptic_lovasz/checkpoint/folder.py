"""What travels with the weights: the config and the classes, in the folder that training wrote."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import NamedTuple

from ..data.classes import PanopticClasses
from ..data.id_map import write_atomically
from ..errors import ConfigError

__all__ = ["Checkpoint", "find_checkpoint", "save_classes"]

_CONFIG = "config.yaml"  # Detectron2's default_setup writes it into OUTPUT_DIR
_CLASSES = "classes.json"


class Checkpoint(NamedTuple):
    """Files that together make a usable model."""

    weights: Path
    config_file: Path
    classes: PanopticClasses | None  # None: the folder does not say


def find_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Find the weights, config and classes that belong together.

    Args:
        path: a folder that training wrote (its ``model_final.pth`` is taken, else the last
            checkpoint), or a weights file in such a folder.

    Raises:
        ConfigError: if there is no such file, or no ``config.yaml`` beside it.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"checkpoint {path} does not exist: expected a file or a folder")
    weights = _weights_in(path) if path.is_dir() else path
    config_file = weights.parent / _CONFIG
    if not config_file.is_file():
        raise ConfigError(
            f"{weights} has no {_CONFIG} beside it, which says what network it belongs to; "
            "training writes it into OUTPUT_DIR"
        )
    return Checkpoint(weights, config_file, _read_classes(weights.parent / _CLASSES))


def save_classes(folder: str | os.PathLike, classes: PanopticClasses) -> None:
    """Write the classes beside the checkpoints, so that these can be used without the data set."""
    content = json.dumps(dataclasses.asdict(classes), indent=1)
    write_atomically(Path(folder) / _CLASSES, lambda f: f.write(content.encode()))


def _weights_in(folder: Path) -> Path:
    last = folder / "last_checkpoint"
    candidates = ["model_final.pth"]
    if last.is_file():
        candidates.append(last.read_text().strip())
    for name in candidates:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"the folder {folder} holds no checkpoint: looked for {candidates}")


def _read_classes(path: Path) -> PanopticClasses | None:
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text())
        return PanopticClasses(**{key: _tuples(value) for key, value in fields.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not hold the classes of a model: {error}") from error


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
