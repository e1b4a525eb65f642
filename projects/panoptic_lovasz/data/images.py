"""The one reader of images: the same pixels for training, evaluation, pictures and prediction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import DatasetError
from ..files import open_file

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageHeader",
    "ImageSizeError",
    "high_byte",
    "is_hidden",
    "pil_to_rgb",
    "read_header",
    "read_image",
    "turn",
]

# Endings by which the images in a folder are known.
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)

_ORIENTATION = 274  # the EXIF tag


class ImageSizeError(DatasetError):
    """An image or id PNG is not of the size that its data set says."""


class ImageHeader(NamedTuple):
    """What an image file says of itself before its pixels are decoded.

    Attributes:
        width, height: in pixels, of the upright image.
        orientation: of its EXIF data, 1..8; 1 is upright.
        mode: Pillow's name of the pixels' type, such as "RGB" or "I;16".
    """

    width: int
    height: int
    orientation: int
    mode: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return self.width, self.height

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the pixels as the file has them, before they are turned."""
        return self.size[::-1] if self.orientation >= 5 else self.size

    def turned(self) -> str:
        """The end of a message about sizes: how EXIF turns the image, "" if it does not."""
        if self.orientation == 1:
            return ""
        return (
            f"; the image is turned by its EXIF orientation {self.orientation}: save it upright, "
            "without the tag, or turn the annotation"
        )


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3) RGB, turned as its EXIF orientation says.

    Grayscale becomes three equal channels, transparency is dropped, 16-bit values are reduced to
    their high byte, and of an animation the first picture is taken.

    Args:
        path: the file.
        size: width and height, upright, that it must have; looked at before anything is decoded.
            Without it, an image of more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` is refused.

    Raises:
        ImageSizeError: if it is of another size.
        DatasetError: if the file is missing, is not a regular file or an image, is damaged or of
            floats; the message names it.
    """
    with _opened(path) as image:
        _check_size(image, size)
        image.load()
        return pil_to_rgb(image)


def read_header(path: str | os.PathLike) -> ImageHeader:
    """Read size, EXIF orientation and mode of an image; no pixel is decoded.

    Raises:
        DatasetError: if the file is missing, is not a regular file or not an image.
    """
    with _opened(path) as image:
        return _header(image)


def pil_to_rgb(image: Image.Image) -> np.ndarray:
    """Bring a PIL image to uint8 (H, W, 3) RGB, as :func:`read_image` does.

    Raises:
        DatasetError: if it is damaged, or its values are floats or more than 16 bits.
    """
    try:
        image.load()  # before the orientation is asked for: Pillow turns TIFFs itself
    except Exception as error:  # Pillow raises errors of many types for a damaged file
        raise DatasetError(f"it cannot be read: {error}") from error
    rgb = _rgb(image)
    return np.ascontiguousarray(turn(rgb, _orientation(image)))


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise DatasetError(
            f"its values are {'floats' if image.mode == 'F' else '32-bit integers'} from "
            f"{values.min()} to {values.max()}; expected 8 or 16 bits per channel"
        )
    return np.repeat(high_byte(values)[..., None], 3, axis=2)


def turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an (H, W) map or (H, W, C) image as an EXIF orientation of 1 to 8 says; a view."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def high_byte(values: np.ndarray) -> np.ndarray:
    """16-bit values as uint8: of each its high byte."""
    return (values >> 8).astype(np.uint8)


def is_hidden(path: str | os.PathLike) -> bool:
    """Whether a relative path leads through what systems and editors leave behind.

    Names that begin with a dot (``._a.png``, ``.ipynb_checkpoints``), and macOS's and network
    disks' folders of metadata.
    """
    parts = os.fspath(path).split(os.sep)
    return any(p.startswith(".") or p in ("__MACOSX", "@eaDir") for p in parts)


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    path = os.fspath(path)
    try:
        with open_file(path) as f, Image.open(f) as image:
            yield image
    except FileNotFoundError:
        raise DatasetError(f"image {path} does not exist") from None
    except Image.DecompressionBombError:
        raise DatasetError(f"image {path}: it has too many pixels{_LIMIT_HINT}") from None
    except DatasetError as error:
        raise type(error)(f"image {path}: {error}") from None
    except Exception as error:  # Pillow raises errors of many types for a damaged file
        raise DatasetError(f"image {path} cannot be read: {error}") from error


_LIMIT_HINT = (
    " to be decoded unasked: cut it into tiles, or raise the limit (demo.py --max-pixels; in "
    "Python PIL.Image.MAX_IMAGE_PIXELS)"
)


def _check_size(image: Image.Image, size: tuple[int, int] | None) -> None:
    header = _header(image)
    if size is not None and header.size != size:
        raise ImageSizeError(
            f"it is {header.width} x {header.height} pixels, but its data set says "
            f"{size[0]} x {size[1]} (width x height){header.turned()}"
        )
    limit = Image.MAX_IMAGE_PIXELS
    if size is None and limit is not None and header.width * header.height > limit:
        raise DatasetError(
            f"it is {header.width} x {header.height} pixels, more than {limit}, which are too "
            f"many{_LIMIT_HINT}"
        )


def _header(image: Image.Image) -> ImageHeader:
    orientation = _orientation(image)
    # Pillow gives some turned TIFFs their upright size when it opens them; the tags tell the stored
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(256, image.width), tags.get(257, image.height)
    if orientation >= 5:
        width, height = height, width
    return ImageHeader(width, height, orientation, image.mode)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; of a PNG as it stands before the pixels, which are not decoded."""
    try:
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged metadata do not spoil the pixels
        return 1
    return value if value in range(1, 9) else 1
