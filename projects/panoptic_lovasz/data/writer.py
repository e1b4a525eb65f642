"""Write a data set in the COCO panoptic format, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import DatasetError
from ..files import write_text
from .classes import PanopticClasses
from .coco_panoptic import check_segment
from .fields import check_unique, shorten
from .id_map import VOID, find_segments, write_panoptic_png

__all__ = ["PanopticSample", "write_coco_panoptic"]


@dataclass
class PanopticSample:
    """One image's annotation, as ``write_coco_panoptic`` takes it.

    Attributes:
        file_name: the image's path, relative to the image folder.
        id_map: integer (H, W) segment ids, 0 for void.
        segments: {"id", "category_id"} and optionally "iscrowd" of each segment; the category id is
            that of the file's categories. Area and box are computed.
        image_id: unique in the data set; counted from 1 where it is None.
    """

    file_name: str
    id_map: np.ndarray
    segments: Sequence[dict[str, Any]]
    image_id: int | str | None = None


def write_coco_panoptic(
    json_file: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    categories: Sequence[dict[str, Any]],
    samples: Iterable[PanopticSample],
    *,
    total: int | None = None,
    info: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Write a data set in the COCO panoptic format; one sample at a time is in memory.

    The PNGs are written to a temporary folder and take their place when all are there; the JSON
    comes last. So after an interruption no JSON refers to PNGs that are missing or not its own.

    Args:
        json_file: the JSON to write.
        panoptic_dir: the folder of PNGs to write, each at its image's path with the suffix .png,
            which is appended where two images differ in theirs alone.
        categories: as in the JSON: "id", "name", "isthing" and optionally "color".
        samples: the annotated images; segments without a pixel are left out.
        total: number of samples, for the progress bar.
        info: content of the JSON's "info".
        overwrite: replace an existing JSON and PNGs of the same names.
        progress: show a progress bar if stderr is a terminal.

    Returns:
        The number of images written.

    Raises:
        DatasetError: if the destination exists, two images would share a file or an id, or a
            sample's segments and pixels do not belong together.
    """
    json_file, panoptic_dir = Path(json_file), Path(panoptic_dir)
    classes = PanopticClasses.from_categories(list(categories))
    if not overwrite:
        _check_free(json_file, panoptic_dir)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    panoptic_dir.parent.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with TemporaryDirectory(
        prefix=f".{panoptic_dir.name}.", suffix=".tmp", dir=panoptic_dir.parent
    ) as name:
        partial = Path(name)
        hidden = None if progress else True  # None: shown if stderr is a terminal
        for sample in tqdm(samples, total=total, desc=json_file.name, disable=hidden):
            image, annotation = _write_sample(sample, len(images) + 1, partial, classes)
            images.append(image)
            annotations.append(annotation)
        check_unique((image["id"] for image in images), "image_id")
        check_unique((image["file_name"] for image in images), "file_name")
        content = {
            "info": info or {},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": list(categories),
        }
        json_file.unlink(missing_ok=True)  # no JSON ever stands beside PNGs that are not its own
        _move_into(partial, panoptic_dir)
        write_text(json_file, json.dumps(content))
    return len(images)


def _check_free(json_file: Path, panoptic_dir: Path) -> None:
    if json_file.exists():
        raise DatasetError(
            f"{json_file} exists already: overwrite it (--overwrite) or choose another name"
        )
    if panoptic_dir.exists() and (not panoptic_dir.is_dir() or any(panoptic_dir.iterdir())):
        raise DatasetError(
            f"{panoptic_dir} is not an empty folder: overwrite (--overwrite) or choose another"
        )


def _write_sample(
    sample: PanopticSample, number: int, panoptic_dir: Path, classes: PanopticClasses
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one PNG; return the image's and the annotation's entries in the JSON."""
    image_id = number if sample.image_id is None else sample.image_id
    png_name = Path(sample.file_name).with_suffix(".png")
    if (panoptic_dir / png_name).exists():  # as of a.jpg beside a.png
        png_name = Path(f"{sample.file_name}.png")
    png = panoptic_dir / png_name
    if png_name.is_absolute() or ".." in png_name.parts:
        raise DatasetError(f"{sample.file_name}: expected a path relative to the image folder")
    if png.exists():
        raise DatasetError(f"{sample.file_name}: an earlier image has the same PNG {png_name}")
    segments_info = _describe_segments(sample, classes)
    png.parent.mkdir(parents=True, exist_ok=True)
    write_panoptic_png(png, sample.id_map)
    height, width = sample.id_map.shape
    image = {"id": image_id, "file_name": sample.file_name, "height": height, "width": width}
    annotation = {
        "image_id": image_id,
        "file_name": png_name.as_posix(),
        "segments_info": segments_info,
    }
    return image, annotation


def _describe_segments(sample: PanopticSample, classes: PanopticClasses) -> list[dict[str, Any]]:
    found = find_segments(sample.id_map)
    area = dict(zip(found.ids.tolist(), found.areas.tolist(), strict=True))
    bbox = dict(zip(found.ids.tolist(), found.boxes.tolist(), strict=True))
    segments_info = []
    for segment in sample.segments:
        info = {**segment, "iscrowd": int(segment.get("iscrowd", 0))}
        check_segment(info, sample.file_name, classes)
        if info["id"] in area:
            segments_info.append({**info, "area": area[info["id"]], "bbox": bbox[info["id"]]})
    check_unique((s["id"] for s in segments_info), f"{sample.file_name}: segment id")
    unknown = area.keys() - {s["id"] for s in segments_info} - {VOID}
    if unknown:
        raise DatasetError(
            f"{sample.file_name}: pixels have the ids {shorten(sorted(unknown))}, but no segment "
            f"does; use {VOID} for void"
        )
    return segments_info


def _move_into(source: Path, destination: Path) -> None:
    """Move all files of a tree, replacing those that exist."""
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        target = destination / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
