"""Check one image and its id PNG against their entries in the JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import DatasetError
from ..fields import shorten
from ..id_map import VOID, find_segments, read_panoptic_png

__all__ = ["ImageFindings", "check_files"]

_EXIF_ORIENTATION = 274


@dataclass
class ImageFindings:
    """What the files of one annotation hold.

    Attributes:
        faults: (file, field, message, is_error).
        size: (width, height) of the image, None if it cannot be read.
        areas, boxes: by segment id as in the PNG; empty if it cannot be read.
        segments: the JSON's segments that the PNG has.
        unknown_ids: ids in the PNG that no segment has.
    """

    faults: list[tuple[str, str, str, bool]] = field(default_factory=list)
    size: tuple[int, int] | None = None
    areas: dict[int, int] = field(default_factory=dict)
    boxes: dict[int, list[int]] = field(default_factory=dict)
    segments: list[dict[str, Any]] = field(default_factory=list)
    unknown_ids: list[int] = field(default_factory=list)


def check_files(image: dict, annotation: dict, image_file: Path, png_file: Path) -> ImageFindings:
    """Decode an image and its PNG and compare sizes, ids, areas and boxes."""
    found = ImageFindings()
    found.size, upright = _read_image(image_file, found)
    declared = (image["width"], image["height"])
    if upright is not None:
        if upright != declared:
            found.faults.append((str(image_file), "size", _sizes(upright, declared), True))
        if upright != found.size or _has_orientation(image_file):
            message = "the image is turned by its EXIF orientation; save it upright, without it"
            found.faults.append((str(image_file), "EXIF", message, upright != declared))
    try:
        ids = read_panoptic_png(png_file)
    except DatasetError as error:
        found.faults.append((str(png_file), "pixels", str(error), True))
        return found
    size = (ids.shape[1], ids.shape[0])
    if size != declared:
        found.faults.append((str(png_file), "size", _sizes(size, declared), True))
    segments = find_segments(ids)
    found.areas = dict(zip(segments.ids.tolist(), segments.areas.tolist(), strict=True))
    found.boxes = dict(zip(segments.ids.tolist(), segments.boxes.tolist(), strict=True))
    found.faults += [(str(png_file), *fault) for fault in _compare(annotation, found)]
    return found


def _read_image(
    file: Path, found: ImageFindings
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Size of the pixels, and size as seen when the EXIF orientation is applied."""
    try:
        with Image.open(file) as image:
            image.load()
            size = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except FileNotFoundError:
        found.faults.append((str(file), "file", "is missing", True))
        return None, None
    except Exception as error:  # Pillow raises errors of many types for a damaged file
        found.faults.append((str(file), "pixels", f"cannot be read: {error}", True))
        return None, None
    return size, (size[1], size[0]) if turned else size


def _has_orientation(file: Path) -> bool:
    with Image.open(file) as image:
        return image.getexif().get(_EXIF_ORIENTATION, 1) != 1


def _compare(annotation: dict, found: ImageFindings) -> Iterator[tuple[str, str, bool]]:
    """Compare the segments of the JSON with those of the PNG."""
    segments = {
        s["id"]: s for s in annotation["segments_info"] if isinstance(s, dict) and _has_id(s)
    }
    ids = found.areas.keys() - {VOID}
    found.unknown_ids = sorted(ids - segments.keys())
    found.segments = [s for i, s in segments.items() if i in ids]
    if not ids:
        yield "pixels", "all are void: the image teaches nothing", False
    if found.unknown_ids:
        pixels = sum(found.areas[i] for i in found.unknown_ids)
        ids_text = shorten(found.unknown_ids)
        yield "pixels", f"{pixels} have the ids {ids_text}, which the JSON lacks", True
    for segment_id in sorted(segments.keys() - ids):
        yield "segments_info", f"segment {segment_id} has no pixel in the PNG", True
    for segment in found.segments:
        yield from _compare_numbers(segment, found)


def _compare_numbers(segment: dict, found: ImageFindings) -> Iterator[tuple[str, str, bool]]:
    area, box = found.areas[segment["id"]], found.boxes[segment["id"]]
    if "area" in segment and segment["area"] != area:
        what = f"of segment {segment['id']} is {shorten(segment['area'])}"
        yield "area", f"{what}, the PNG has {area} pixels", True
    if "bbox" in segment and not _same_box(segment["bbox"], box):
        what = f"of segment {segment['id']} is {shorten(segment['bbox'])}"
        yield "bbox", f"{what}, the PNG has {box} (x, y, width, height)", True


def _same_box(given: Any, box: list[int]) -> bool:
    """Equal up to a pixel: tools differ in whether a box includes its last pixel."""
    try:
        return bool(np.abs(np.asarray(given, float) - box).max() <= 1)
    except (TypeError, ValueError):
        return False


def _has_id(segment: dict) -> bool:
    return type(segment.get("id")) is int


def _sizes(found: tuple[int, int], declared: tuple[int, int]) -> str:
    return (
        f"is {found[0]} x {found[1]} pixels, the JSON says {declared[0]} x {declared[1]} "
        "(width x height)"
    )
