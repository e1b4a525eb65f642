"""What travels with the weights: the config and the classes, in the folder that training wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..data.classes import PanopticClasses
from ..errors import CheckpointError, ConfigError
from ..files import write_text
from .classes_json import classes_from_json, classes_to_json
from .plain import read_text
from .published import HUB_WEIGHTS, read_model_info

__all__ = ["Checkpoint", "check_same_classes", "find_checkpoint", "save_classes"]

_CONFIG = "config.yaml"  # Detectron2's default_setup writes it into OUTPUT_DIR
_CLASSES = "classes.json"


class Checkpoint(NamedTuple):
    """Files that together make a usable model."""

    weights: str | Path  # a URL for a model of Detectron2's zoo
    config_file: str | Path  # YAML, or a published model, which holds its config
    classes: PanopticClasses | None  # None: the folder does not say
    is_own: bool = False  # the config is one that this project or Detectron2 comes with


def find_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Find the weights, config and classes that belong together.

    Args:
        path: a folder that training wrote (its ``model_final.pth`` is taken, else the last
            checkpoint), a weights file in such a folder, a published .safetensors file, which needs
            nothing beside it, or a folder in the Hugging Face Hub's layout.

    Raises:
        ConfigError: if there is no such file, or no ``config.yaml`` beside it.
        CheckpointError: if a published file is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"checkpoint {path} does not exist: expected a file or a folder")
    weights = _weights_in(path) if path.is_dir() else path
    info = read_model_info(weights)
    if info is not None:
        return Checkpoint(weights, weights, info.classes)
    config_file = weights.parent / _CONFIG
    if not config_file.is_file():
        raise ConfigError(
            f"{weights} has no {_CONFIG} beside it, which says what network it belongs to; "
            "training writes it into OUTPUT_DIR, and a published model holds it"
        )
    return Checkpoint(weights, config_file, _read_classes(weights.parent / _CLASSES))


def save_classes(folder: str | os.PathLike, classes: PanopticClasses) -> None:
    """Write the classes beside the checkpoints, so that these can be used without the data set."""
    write_text(Path(folder) / _CLASSES, classes_to_json(classes))


def check_same_classes(folder: str | os.PathLike, classes: PanopticClasses) -> None:
    """Check that what was trained in a folder can go on with the classes of the data.

    Raises:
        CheckpointError: if ``classes.json`` there has others, or in another order.
    """
    before = _read_classes(Path(folder) / _CLASSES)
    kinds = ("thing_classes", "stuff_classes")
    if before is None or all(getattr(before, k) == getattr(classes, k) for k in kinds):
        return
    names = [*before.thing_classes, *before.stuff_classes[1:]]
    others = [*classes.thing_classes, *classes.stuff_classes[1:]]
    raise CheckpointError(
        f"cannot resume in {folder}: its checkpoints know {_counts(before)} ({', '.join(names)}), "
        f"the data has {_counts(classes)} ({', '.join(others)}). Train in another OUTPUT_DIR; with "
        "the checkpoint as MODEL.WEIGHTS all that fits is kept. If classes only changed their "
        f"names, delete {Path(folder) / _CLASSES}"
    )


def _counts(classes: PanopticClasses) -> str:
    things, stuff = classes.num_things, classes.num_semantic - 1
    return f"{things + stuff} classes, {things} of things and {stuff} of stuff"


def _weights_in(folder: Path) -> Path:
    last = folder / "last_checkpoint"
    candidates = ["model_final.pth"]
    if last.is_file():
        candidates.append(Path(read_text(last).strip()).name)  # in this folder, whatever it says
    candidates.append(HUB_WEIGHTS)
    for name in candidates:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"the folder {folder} holds no checkpoint: looked for {candidates}")


def _read_classes(path: Path) -> PanopticClasses | None:
    return classes_from_json(read_text(path), str(path)) if path.is_file() else None
