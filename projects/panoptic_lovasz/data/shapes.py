"""A generated panoptic data set, "shapes".

It is written in the COCO panoptic format, so it takes the path that a user's own data takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DatasetError
from ..files import replacing, write_text
from .scene import SHAPES_CATEGORIES, draw_scene
from .writer import PanopticSample, write_coco_panoptic

__all__ = ["SHAPES_CATEGORIES", "draw_scene", "make_shapes"]

_MARKER = "shapes.json"  # written last: parameters of a complete data set
_VERSION = 1  # raise it when the pictures change


def make_shapes(
    root: str | os.PathLike,
    *,
    num_train: int = 600,
    num_val: int = 100,
    size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Generate the shapes data set, unless ``root`` holds it already.

    Writes annotations/{train,val}.json, the images in {train,val}/ and their id PNGs in
    panoptic_{train,val}/. The same arguments give the same pixels; the splits share no random
    number. ``root`` appears as a whole at the end, so an interruption leaves nothing behind.

    Args:
        root: the folder to make.
        num_train, num_val: number of images.
        size: height and width in pixels, at least 64.
        seed: of all that is random.
        progress: show progress bars.

    Returns:
        ``root``.

    Raises:
        DatasetError: if ``root`` holds something else, or a data set made with other arguments.
    """
    root = Path(root)
    if size < 64 or num_train < 1 or num_val < 1:
        raise DatasetError(
            f"size is {size}, num_train {num_train}, num_val {num_val}; expected at least 64 "
            "pixels and one image of each split"
        )
    parameters = {
        "version": _VERSION,
        "size": size,
        "seed": seed,
        "train": num_train,
        "val": num_val,
    }
    if _is_complete(root, parameters):
        return root
    try:
        with replacing(root) as partial:
            _write(partial, parameters, progress)
    except OSError:
        if not _is_complete(root, parameters):  # another process may have been faster
            raise
    return root


def _is_complete(root: Path, parameters: dict[str, int]) -> bool:
    marker = root / _MARKER
    if marker.is_file():
        try:
            found = json.loads(marker.read_text())
        except ValueError as error:
            raise DatasetError(f"{marker} cannot be read: {error}; remove {root}") from error
        if found == parameters:
            return True
        raise DatasetError(
            f"{root} holds shapes made with {found}, not {parameters}: remove it or choose another "
            "folder"
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DatasetError(f"{root} is not an empty folder and holds no shapes: choose another")
    return False


def _write(root: Path, parameters: dict[str, int], progress: bool) -> None:
    for stream, split in enumerate(("train", "val")):
        (root / split).mkdir(parents=True)
        seed = (parameters["seed"], stream)
        write_coco_panoptic(
            root / "annotations" / f"{split}.json",
            root / f"panoptic_{split}",
            SHAPES_CATEGORIES,
            _write_images(root / split, parameters[split], parameters["size"], seed),
            total=parameters[split],
            info={"description": "shapes", **parameters},
            progress=progress,
        )
    write_text(root / _MARKER, json.dumps(parameters, indent=2))


def _write_images(
    folder: Path, count: int, size: int, seed: tuple[int, int]
) -> Iterator[PanopticSample]:
    for n in range(count):
        image, id_map, segments = draw_scene(np.random.default_rng((*seed, n)), size)
        name = f"{n:06d}.png"
        Image.fromarray(image).save(folder / name)
        yield PanopticSample(name, id_map, segments)
