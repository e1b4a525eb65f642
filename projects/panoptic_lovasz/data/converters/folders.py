"""What the converters share: pairing files by name, reading label PNGs, linking images."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ...errors import DatasetError
from ...files import open_file
from ..images import IMAGE_SUFFIXES, ImageHeader, is_hidden, read_header
from ..paths import Folder

__all__ = [
    "LabelReader",
    "check_void_labels",
    "find_png",
    "label_reader",
    "link_folder",
    "list_images",
    "pair_files",
]

logger = logging.getLogger(__name__)


def list_images(folder: Path, follow_links: bool = False) -> list[Path]:
    """Image files below a folder, in order of their names; hidden ones are left out.

    Raises:
        DatasetError: if it is not a folder or holds no image, or a link leads out of it.
    """
    if not folder.is_dir():
        raise DatasetError(f"image folder {folder} does not exist")
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES
        and not is_hidden(p.relative_to(folder))
        and not p.is_dir()
    )
    if not files:
        raise DatasetError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    inside = Folder(folder, follow_links)
    return [Path(inside.find(str(p.relative_to(folder)))) for p in files]


def pair_files(images: Path, labels: Path, follow_links: bool = False) -> list[tuple[Path, Path]]:
    """Pair each image with the label PNG of the same relative path.

    Raises:
        DatasetError: if an image has no label file; the message counts and names them.
    """
    label_folder = Folder(labels, follow_links)
    pairs, missing = [], []
    for image in list_images(images, follow_links):
        name = image.relative_to(images)
        try:
            pairs.append((image, find_png(name, label_folder)))
        except FileNotFoundError:
            missing.append(str(name.with_suffix(".png")))
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(missing) + len(pairs)} label files are missing"
            f"{label_folder.describe_missing(missing)}"
        )
    return pairs


def find_png(name: Path, folder: Folder) -> Path:
    """The PNG of a name, whatever its suffix and however "png" is written.

    Raises:
        FileNotFoundError: if there is none.
    """
    for suffix in (".png", ".PNG"):
        with contextlib.suppress(FileNotFoundError):
            return Path(folder.find(str(name.with_suffix(suffix))))
    raise FileNotFoundError(name)


def check_void_labels(ids: Iterable[int], void_labels: Iterable[int]) -> None:
    """Raise if a category's id is a void label, too: its pixels would be lost."""
    both = sorted(set(ids) & set(void_labels))
    if both:
        raise DatasetError(
            f"the ids {both} are those of categories and void labels at once: give other void "
            "labels (--void, which may be none) or ids"
        )


LabelReader = Callable[[Path, Path], np.ndarray]


@contextlib.contextmanager
def label_reader() -> Iterator[LabelReader]:
    """A function that reads the label file of an image; images that EXIF turns are told at the end.

    It takes a label file of one channel, of 8 or 16 bits or with a palette, and its image, and
    returns integer (H, W) labels.

    Raises:
        DatasetError: by the function, if a file cannot be read, the label file has colors or
            floats, or its size is not that of the upright image.
    """
    turned: dict[Path, None] = {}

    def read(label_file: Path, image_file: Path) -> np.ndarray:
        header = read_header(image_file)
        if header.orientation != 1:
            turned[image_file] = None
        return _read_labels(label_file, image_file, header)

    yield read
    _warn_of_turned(list(turned))


def _warn_of_turned(images: Sequence[Path]) -> None:
    """Say that images are turned by EXIF: sizes cannot tell how annotations were drawn."""
    if images:
        logger.warning(
            f"{len(images)} images are turned by their EXIF orientation, the first is {images[0]}: "
            "their annotations are taken as drawn on the upright view"
        )


def _read_labels(label_file: Path, image_file: Path, header: ImageHeader) -> np.ndarray:
    try:
        with open_file(label_file) as f, Image.open(f) as label:
            if label.size != header.size:
                raise DatasetError(
                    f"{label_file} is {label.width} x {label.height} pixels, but its image "
                    f"{image_file} is {header.width} x {header.height} (width x height)"
                    f"{header.turned()}"
                )
            if len(label.getbands()) != 1 or label.mode == "F":
                raise DatasetError(
                    f"{label_file} has the mode {label.mode}, expected one channel of integers, "
                    "the labels"
                )
            return np.array(label).astype(np.int32) // _gray_step(f)
    except DatasetError:
        raise
    except Exception as error:  # Pillow raises errors of many types for a damaged file
        raise DatasetError(f"{label_file} cannot be read: {error}") from error


def _gray_step(file: BinaryIO) -> int:
    """By how much Pillow multiplies the values of a gray PNG of 2 or 4 bits."""
    file.seek(0)
    header = file.read(26)
    bits, color_type = header[24:25], header[25:26]  # of the PNG standard's IHDR
    is_gray_png = header.startswith(b"\x89PNG") and color_type == b"\0"
    return {b"\2": 85, b"\4": 17}.get(bits, 1) if is_gray_png else 1


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
