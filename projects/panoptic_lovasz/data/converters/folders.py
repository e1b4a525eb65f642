"""What the converters share: pairing files by name, reading label PNGs, linking images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import DatasetError

__all__ = ["IMAGE_SUFFIXES", "link_folder", "list_images", "pair_files", "read_labels"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def list_images(folder: Path) -> list[Path]:
    """Image files below a folder, in order of their names.

    Raises:
        DatasetError: if it is no folder or holds no image.
    """
    if not folder.is_dir():
        raise DatasetError(f"image folder {folder} does not exist")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DatasetError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return files


def pair_files(images: Path, labels: Path, suffix: str = ".png") -> list[tuple[Path, Path]]:
    """Pair each image with the label file of the same relative path.

    Raises:
        DatasetError: if an image has no label file; the message counts and names them.
    """
    pairs = [
        (image, labels / image.relative_to(images).with_suffix(suffix))
        for image in list_images(images)
    ]
    missing = [label.name for _, label in pairs if not label.is_file()]
    if missing:
        raise DatasetError(
            f"{labels}: {len(missing)} of {len(pairs)} label files are missing, "
            f"among them {', '.join(missing[:3])}"
        )
    return pairs


def read_labels(label_file: Path, image_file: Path) -> np.ndarray:
    """Read a label PNG of one channel, of 8 or 16 bits, or with a palette; integer (H, W).

    Raises:
        DatasetError: if a file cannot be read, the PNG has colors, or the sizes differ.
    """
    try:
        with Image.open(image_file) as image:
            size = image.size
        with Image.open(label_file) as label:
            mode, labels = label.mode, np.array(label)
    except (OSError, UnidentifiedImageError) as error:
        raise DatasetError(f"{label_file} or its image {image_file}: {error}") from error
    if labels.ndim != 2:
        raise DatasetError(
            f"{label_file} has the mode {mode}, expected one channel that holds the labels"
        )
    if labels.shape != size[::-1]:
        raise DatasetError(
            f"{label_file} is {labels.shape[1]} x {labels.shape[0]} pixels, but its image "
            f"{image_file} is {size[0]} x {size[1]} (width x height)"
        )
    return labels.astype(np.int32)


def link_folder(target: Path, link: Path) -> None:
    """Make ``link`` show the folder ``target``, unless it is that folder already.

    Raises:
        DatasetError: if something else is there.
    """
    if link.exists() and link.resolve() == target.resolve():
        return
    if link.is_symlink() or link.exists():
        raise DatasetError(f"{link} exists and is not {target}: remove it or choose another output")
    link.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target.resolve(), link, target_is_directory=True)
