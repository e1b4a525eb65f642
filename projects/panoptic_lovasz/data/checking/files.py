"""Check one image and its id PNG against their entries in the JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import DatasetError
from ..fields import shorten
from ..id_map import VOID, find_segments, read_panoptic_png
from ..images import ImageSizeError, read_header, read_image
from ..paths import Folder

__all__ = ["ImageFindings", "check_files", "check_image"]

_DARK = 16  # high bytes of 16-bit images below this: 12 bits or fewer are used


@dataclass
class ImageFindings:
    """What the files of one annotation hold.

    Attributes:
        faults: (file, field, message, is_error).
        size: (width, height) of the upright image, None if it cannot be read.
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


def check_files(image: dict, annotation: dict, images: Folder, panoptic: Folder) -> ImageFindings:
    """Decode an image and its PNG and compare sizes, ids, areas and boxes.

    A file of another size than the JSON says is not decoded: some kilobytes can be gigabytes.
    """
    found = ImageFindings()
    declared = (image["width"], image["height"])
    image_file, png_file = (
        _find(record["file_name"], folder, found)
        for record, folder in ((image, images), (annotation, panoptic))
    )
    if image_file is not None:
        faults = check_image(image_file, declared, found)
        found.faults += [(image_file, *fault) for fault in faults]
    if png_file is None:
        return found
    try:
        ids = read_panoptic_png(png_file, declared)
    except DatasetError as error:
        field = "size" if isinstance(error, ImageSizeError) else "pixels"
        found.faults.append((png_file, field, str(error), True))
        return found
    segments = find_segments(ids)
    found.areas = dict(zip(segments.ids.tolist(), segments.areas.tolist(), strict=True))
    found.boxes = dict(zip(segments.ids.tolist(), segments.boxes.tolist(), strict=True))
    found.faults += [(png_file, *fault) for fault in _compare(annotation, found)]
    return found


def _find(name: str, folder: Folder, found: ImageFindings) -> str | None:
    """Path of a file; None, and a fault, if it is missing or not to be read."""
    try:
        return folder.find(name)
    except FileNotFoundError as error:
        found.faults.append((str(error), "file", "is missing", True))
    except DatasetError as error:
        found.faults.append((os.path.join(folder.root, name), "file_name", str(error), True))
    return None


def check_image(
    file: str, declared: tuple[int, int], found: ImageFindings
) -> Iterator[tuple[str, str, bool]]:
    """Read an image; what is wrong with it as (field, message, is_error)."""
    try:
        header = read_header(file)
        found.size = header.size
        if header.orientation != 1:
            message = (
                f"the image is turned by its EXIF orientation {header.orientation}: annotations "
                "must be drawn on the upright view; save it upright, without the tag"
            )
            yield "EXIF", message, header.size != declared
        pixels = read_image(file, declared)
    except DatasetError as error:
        yield "size" if isinstance(error, ImageSizeError) else "pixels", str(error), True
        return
    if header.mode.startswith("I"):
        dark = "; its values use 12 bits or fewer, so it is nearly black: scale them to 16"
        hint = dark if pixels.max() < _DARK else ""
        yield "bits", f"it has 16 bits per channel, of which the high byte counts{hint}", False


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
