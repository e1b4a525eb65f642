"""Segment id maps: their PNG form (id = R + 256 G + 256^2 B) and what is derived from them."""

from __future__ import annotations

import os
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..errors import DatasetError
from ..files import open_file, write_atomically
from .images import ImageSizeError, read_header

try:
    import kornia_rs
except ImportError:  # OpenCV takes its place
    kornia_rs = None  # type: ignore[assignment]

__all__ = [
    "MAX_SEGMENT_ID",
    "VOID",
    "Runs",
    "Segments",
    "find_segments",
    "id_to_rgb",
    "label_runs",
    "read_panoptic_png",
    "rgb_to_id",
    "write_panoptic_png",
]

VOID = 0  # the id of pixels that belong to no segment
MAX_SEGMENT_ID = 256**3 - 1

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_SIZE = 26  # up to bit depth and color type
_PNG_GRAY = {0: "gray", 4: "gray with alpha"}  # color types that hold no ids
_PNG_RGB = 2
_COLORS_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
    """Decode a uint8 (..., 3) RGB array into int32 (...) segment ids R + 256 G + 256^2 B."""
    pixels = np.ascontiguousarray(rgb).reshape(1, -1, 3)  # one row: OpenCV wakes no other threads
    if not pixels.size:
        return np.empty(rgb.shape[:-1], np.int32)
    ids = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA).view("<i4").reshape(rgb.shape[:-1])
    ids &= MAX_SEGMENT_ID  # without the opacity
    return ids


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Encode integer (...) segment ids in 0..256^3-1 as a uint8 (..., 3) RGB array."""
    if ids.size and not (ids.min() >= 0 and ids.max() <= MAX_SEGMENT_ID):
        raise DatasetError(f"segment ids must be in 0..{MAX_SEGMENT_ID} to fit into an RGB PNG")
    rgbx = np.ascontiguousarray(ids, dtype="<i4")[..., None].view(np.uint8)
    return np.ascontiguousarray(rgbx[..., :3])


def read_panoptic_png(
    file_name: str | os.PathLike,
    size: tuple[int, int] | None = None,
    image: str | os.PathLike | None = None,
) -> np.ndarray:
    """Read an id PNG into an int32 (H, W) array of segment ids; 0 is void.

    Args:
        file_name: the PNG.
        size: width and height that it must have, looked at before anything is decoded: some
            kilobytes can be gigabytes of pixels.
        image: the image of this size, for the message; by default the data set's JSON says so.

    Raises:
        ImageSizeError: if it is of another size.
        DatasetError: if the file is missing, cannot be read or does not hold 8-bit colors.
    """
    file_name = os.fspath(file_name)
    try:
        with open_file(file_name, buffering=0) as f:
            content = f.read(_PNG_HEADER_SIZE)
            _check_header(file_name, content)
            if size is not None:
                _check_size(file_name, content, size, image)
            content += f.read()
    except FileNotFoundError:
        raise DatasetError(f"panoptic PNG {file_name} does not exist") from None
    except OSError as error:
        raise DatasetError(f"panoptic PNG {file_name} cannot be read: {error}") from error
    try:
        return rgb_to_id(_decode(content))
    except Exception as error:  # kornia_rs has no type of its own
        raise DatasetError(f"panoptic PNG {file_name} cannot be read: {error}") from error


def _decode(content: bytes) -> np.ndarray:
    """RGB of a PNG; kornia_rs, where it is installed, takes a fourth of OpenCV's time."""
    if kornia_rs is not None and content[25] == _PNG_RGB:
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        return kornia_rs.io.decode_image_png_u8(content, (height, width), "rgb")
    rgb = cv2.imdecode(np.frombuffer(content, np.uint8), _COLORS_AS_STORED)
    if rgb is None:
        raise ValueError("it is damaged")
    return rgb


def _check_header(file_name: str, header: bytes) -> None:
    if not header.startswith(_PNG_SIGNATURE) or len(header) < _PNG_HEADER_SIZE:
        raise DatasetError(f"panoptic PNG {file_name} cannot be read: it is not a PNG")
    bits, color_type = header[24], header[25]
    if bits > 8 or color_type in _PNG_GRAY:
        raise DatasetError(
            f"panoptic PNG {file_name} has {bits}-bit {_PNG_GRAY.get(color_type, 'colors')}, "
            "expected 8-bit colors (RGB), each its pixel's segment id as R + 256 G + 256^2 B"
        )


def _check_size(
    file_name: str, header: bytes, size: tuple[int, int], image: str | os.PathLike | None
) -> None:
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (16, 20))
    if (width, height) != size:
        is_of = "its data set says" if image is None else f"its image {os.fspath(image)} is"
        raise ImageSizeError(
            f"panoptic PNG {file_name} is {width} x {height} pixels, but {is_of} {size[0]} x "
            f"{size[1]} (width x height){read_header(image).turned() if image else ''}"
        )


def write_panoptic_png(file_name: str | os.PathLike, ids: np.ndarray) -> None:
    """Write integer (H, W) segment ids as an id PNG, atomically."""
    image = Image.fromarray(id_to_rgb(ids))
    write_atomically(file_name, lambda f: image.save(f, format="PNG"))


class Runs(NamedTuple):
    """Horizontal runs of equal values in an (H, W) map, in raster order; none spans two rows."""

    values: np.ndarray  # (R,) value of each run
    starts: np.ndarray  # (R,) index of its first pixel in the flattened map
    lengths: np.ndarray  # (R,) in pixels


def label_runs(label_map: np.ndarray) -> Runs:
    """Cut a non-empty (H, W) map into horizontal runs: some thousands stand for all its pixels."""
    flat = label_map.ravel()
    is_start = np.empty(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=is_start[1:])
    is_start[:: label_map.shape[1]] = True
    starts = np.flatnonzero(is_start)
    return Runs(flat[starts], starts, np.diff(starts, append=flat.size))


class Segments(NamedTuple):
    """The distinct values of a label map, in increasing order, with their areas and boxes."""

    ids: np.ndarray  # (N,) of the map's dtype
    areas: np.ndarray  # (N,) int64, pixels
    boxes: np.ndarray  # (N, 4) int64, x, y, width, height in pixels


def find_segments(label_map: np.ndarray, runs: Runs | None = None) -> Segments:
    """List the distinct values of a non-empty integer (H, W) map with their areas and boxes.

    Args:
        label_map: the map.
        runs: its runs, where they are at hand.
    """
    values, starts, lengths = label_runs(label_map) if runs is None else runs
    order = np.argsort(values, kind="stable")  # by segment, and within it from top to bottom
    values, starts, lengths = values[order], starts[order], lengths[order]
    is_first = np.append(True, values[1:] != values[:-1])
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(values)) - 1
    y, x = np.divmod(starts, label_map.shape[1])
    x0, y0 = np.minimum.reduceat(x, first), y[first]
    x1, y1 = np.maximum.reduceat(x + lengths, first), y[last] + 1
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
    return Segments(values[first], np.add.reduceat(lengths, first), boxes)
