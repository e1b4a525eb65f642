"""What a user gives to be predicted: files, 8-bit RGB arrays, and what the network takes."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image

from ..data.images import IMAGE_SUFFIXES, high_byte, is_hidden, pil_to_rgb, read_image
from ..errors import DatasetError

__all__ = ["IMAGE_SUFFIXES", "as_rgb", "find_files", "network_input", "read_image"]


def as_rgb(image: np.ndarray | Image.Image | str | os.PathLike, order: str = "RGB") -> np.ndarray:
    """Bring an array, a PIL image or a file to uint8 (H, W, 3) RGB, in memory of its own.

    Args:
        image: a path; a PIL image; or a uint8 or uint16 array of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), whose fourth channel, transparency, is dropped.
        order: "RGB" or "BGR", the order of an array's channels.

    Raises:
        DatasetError: the file cannot be read, or the array is of another dtype or shape.
    """
    if isinstance(image, Image.Image):
        return pil_to_rgb(image)
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if not isinstance(image, np.ndarray):
        raise DatasetError(
            f"expected a path, a PIL image or a NumPy array, not a {type(image).__name__}"
        )
    if image.dtype == np.uint16:
        image = high_byte(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise DatasetError(
            f"expected a uint8 or uint16 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"not {image.dtype} {image.shape}"
        )
    if image.size == 0:
        raise DatasetError(f"the image has no pixels: its shape is {image.shape}")
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    elif order == "BGR":
        image = image[..., 2::-1]
    return np.array(image[..., :3], order="C")  # a copy: the caller may fill the array anew


def network_input(rgb: np.ndarray, cfg: CfgNode) -> torch.Tensor:
    """An image as the network takes it: uint8 (C, h, w), resized, with the C of INPUT.FORMAT.

    Args:
        rgb: uint8 (H, W, 3).
        cfg: its INPUT has the size of test images and the format.
    """
    options, pixels = cfg.INPUT, rgb
    if options.FORMAT not in ("RGB", "BGR"):
        pixels = convert_PIL_to_numpy(Image.fromarray(rgb), options.FORMAT)
    short_side = [options.MIN_SIZE_TEST, options.MIN_SIZE_TEST]
    resize = T.ResizeShortestEdge(short_side, options.MAX_SIZE_TEST).get_transform(pixels)
    if isinstance(resize, T.ResizeTransform):  # the side of a thin line must not become 0
        resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)
    pixels = resize.apply_image(pixels)
    if options.FORMAT == "BGR":  # the same pixels as if swapped before, and mostly fewer
        pixels = pixels[..., ::-1]
    return torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def find_files(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """The files that folders, glob patterns and paths stand for, in order, each path once.

    A folder stands for the images directly in it, known by their names' endings; a pattern
    (``**`` reaches into folders) for every file that it matches; a path for itself, whatever it
    is. Within a folder or pattern files are sorted by name.

    Raises:
        DatasetError: if an input stands for no file.
    """
    found: dict[str, Path] = {}
    for given in [os.fspath(path) for path in inputs]:
        if os.path.isdir(given):
            with os.scandir(given) as entries:
                names = [e.name for e in entries if e.is_file()]
            files = [
                os.path.join(given, n)
                for n in sorted(names)
                if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES and not is_hidden(n)
            ]
            problem = f"the folder has no image among its {len(names)} files"
        elif os.path.exists(given):
            files, problem = [given], ""
        else:
            files = [f for f in sorted(glob.glob(given, recursive=True)) if os.path.isfile(f)]
            problem = "there is no such file or folder, and no file matches it as a pattern"
        if not files:
            raise DatasetError(f"{given}: {problem}")
        for file in files:
            found.setdefault(os.path.abspath(file), Path(file))
    return list(found.values())
