"""The COCO panoptic format: one JSON of images, segments and categories beside a folder of id PNGs.

https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from ..errors import DatasetError
from .classes import PanopticClasses
from .id_map import (
    MAX_SEGMENT_ID,
    VOID,
    find_segments,
    write_atomically,
    write_panoptic_png,
)

__all__ = [
    "PanopticSample",
    "load_coco_panoptic_json",
    "read_coco_panoptic_json",
    "write_coco_panoptic",
]

logger = logging.getLogger(__name__)


def read_coco_panoptic_json(json_file: str | os.PathLike) -> dict[str, Any]:
    """Read a COCO panoptic JSON and check its outline: the three lists that it must have.

    Raises:
        DatasetError: if the file is missing, is not JSON, or lacks one of the lists.
    """
    json_file = os.fspath(json_file)
    try:
        with PathManager.open(json_file, "r") as f:
            content = json.load(f)
    except FileNotFoundError:
        raise DatasetError(f"panoptic JSON {json_file} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"panoptic JSON {json_file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{json_file}: expected an object, found a {type(content).__name__}")
    for field in ("images", "annotations", "categories"):
        if not isinstance(content.get(field), list):
            found = type(content[field]).__name__ if field in content else "nothing"
            raise DatasetError(f"{json_file}: expected a list '{field}', found {found}")
    return content


def load_coco_panoptic_json(
    json_file: str | os.PathLike,
    image_dir: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    classes: PanopticClasses | None = None,
) -> list[dict[str, Any]]:
    """Load a data set in the COCO panoptic format as Detectron2 dataset dicts.

    Args:
        json_file: the panoptic JSON.
        image_dir: folder that the images' file names are relative to.
        panoptic_dir: folder that the annotations' file names are relative to.
        classes: numbering of the classes; by default that of the JSON's own categories.

    Returns:
        One dict per annotated image: file_name, image_id, height, width, pan_seg_file_name and
        segments_info, a list of {id, category_id, isthing, iscrowd} plus bbox and area where the
        JSON has them. category_id is 0..T-1 for things and 1..S for stuff.

    Raises:
        DatasetError: naming file, image, field and value of the first thing that is wrong.
    """
    json_file = os.fspath(json_file)
    content = read_coco_panoptic_json(json_file)
    if classes is None:
        classes = PanopticClasses.from_categories(content["categories"], json_file)
    images = _index_images(content["images"], json_file)
    dicts = [
        _dataset_dict(annotation, f"{json_file}: annotations[{n}]", images, classes)
        for n, annotation in enumerate(content["annotations"])
    ]
    if not dicts:
        raise DatasetError(f"{json_file}: 'annotations' is empty, so there is nothing to learn")
    _check_unique((d["image_id"] for d in dicts), f"{json_file}: annotations: image_id")
    _check_unique((d["pan_seg_file_name"] for d in dicts), f"{json_file}: annotations: file_name")
    if len(dicts) < len(images):
        logger.warning(
            f"{json_file}: {len(images) - len(dicts)} of {len(images)} images have no annotation; "
            "they are left out"
        )
    _resolve_files(dicts, "file_name", image_dir, "image", json_file)
    _resolve_files(dicts, "pan_seg_file_name", panoptic_dir, "panoptic PNG", json_file)
    return dicts


def _index_images(images: list[Any], json_file: str) -> dict[int | str, dict[str, Any]]:
    for n, image in enumerate(images):
        where = f"{json_file}: images[{n}]"
        _check_field(image, "id", (int, str), where)
        _check_file_name(image, where)
        for field in ("height", "width"):
            if _check_field(image, field, (int,), where) <= 0:
                raise DatasetError(f"{where}: {field} is {image[field]}, expected a size in pixels")
    _check_unique((image["id"] for image in images), f"{json_file}: images: id")
    _check_unique((image["file_name"] for image in images), f"{json_file}: images: file_name")
    return {image["id"]: image for image in images}


def _dataset_dict(
    annotation: Any, where: str, images: dict[int | str, dict], classes: PanopticClasses
) -> dict[str, Any]:
    image_id = _check_field(annotation, "image_id", (int, str), where)
    image = images.get(image_id)
    if image is None:
        raise DatasetError(f"{where}: image_id {image_id!r} is not the id of any of 'images'")
    segments = _check_field(annotation, "segments_info", (list,), where)
    where = f"{where} (image {image['file_name']})"
    segments_info = [
        _segment_info(segment, f"{where}: segments_info[{n}]", classes)
        for n, segment in enumerate(segments)
    ]
    _check_unique((s["id"] for s in segments_info), f"{where}: segments_info: id")
    return {
        "file_name": image["file_name"],
        "image_id": image_id,
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": _check_file_name(annotation, where),
        "segments_info": segments_info,
    }


def _segment_info(segment: Any, where: str, classes: PanopticClasses) -> dict[str, Any]:
    segment_id = _check_field(segment, "id", (int,), where)
    if not VOID < segment_id <= MAX_SEGMENT_ID:
        raise DatasetError(
            f"{where}: id is {segment_id}, expected 1..{MAX_SEGMENT_ID}, the colors of a PNG "
            "without black, which is void"
        )
    category_id = _check_field(segment, "category_id", (int,), where)
    known = classes.from_dataset_id.get(category_id)
    if known is None:
        raise DatasetError(
            f"{where}: segment {segment_id} has the category_id {category_id}, expected one of "
            f"'categories': {_shorten(sorted(classes.from_dataset_id))}"
        )
    iscrowd = segment.get("iscrowd", 0)
    if iscrowd not in (0, 1):
        raise DatasetError(f"{where}: iscrowd is {iscrowd!r}, expected 0 or 1")
    isthing, class_id = known
    info = {"id": segment_id, "category_id": class_id, "isthing": isthing, "iscrowd": int(iscrowd)}
    if "area" in segment:
        info["area"] = _check_field(segment, "area", (int, float), where)
    if "bbox" in segment:
        bbox = _check_field(segment, "bbox", (list,), where)
        if len(bbox) != 4 or not all(type(v) in (int, float) for v in bbox):
            raise DatasetError(f"{where}: bbox is {bbox}, expected [x, y, width, height]")
        info["bbox"] = bbox
    return info


def _check_field(record: Any, field: str, types: tuple[type, ...], where: str) -> Any:
    if not isinstance(record, dict):
        raise DatasetError(f"{where} is {_shorten(record)}, expected an object")
    if field not in record:
        raise DatasetError(f"{where} has no '{field}'")
    value = record[field]
    if type(value) not in types:
        expected = " or ".join(t.__name__ for t in types)
        raise DatasetError(f"{where}: {field} is {_shorten(value)}, expected {expected}")
    return value


def _check_file_name(record: Any, where: str) -> str:
    name = _check_field(record, "file_name", (str,), where)
    if not name or "\0" in name:
        raise DatasetError(f"{where}: file_name is {name!r}, expected a path")
    return name


def _check_unique(values: Iterable[Any], where: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise DatasetError(f"{where} {value!r} occurs more than once")
        seen.add(value)


def _shorten(value: Any, length: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def _resolve_files(
    dicts: Sequence[dict[str, Any]], field: str, folder: str | os.PathLike, kind: str, source: str
) -> None:
    """Turn file names into paths, and see that the files exist by listing each folder once."""
    folder = os.fspath(folder)
    listings: dict[str, set[str]] = {}
    missing = []
    for record in dicts:
        path = os.path.join(folder, record[field])
        parent, name = os.path.split(path)
        if parent not in listings:
            listings[parent] = set(PathManager.ls(parent)) if PathManager.isdir(parent) else set()
        if name not in listings[parent]:
            missing.append(record[field])
        record[field] = path
    if missing:
        what = "is no folder" if not PathManager.isdir(folder) else "lacks"
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DatasetError(
            f"{source}: {len(missing)} of {len(dicts)} {kind} files are missing: "
            f"{os.path.abspath(folder)} {what}"
            + (f" {some}" if what == "lacks" else f" (looked there for {some})")
        )


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
        panoptic_dir: the folder of PNGs to write, each at its image's path with the suffix .png.
        categories: as in the JSON: "id", "name", "isthing" and optionally "color".
        samples: the annotated images; segments without a pixel are left out.
        total: number of samples, for the progress bar.
        info: content of the JSON's "info".
        overwrite: replace an existing JSON and PNGs of the same names.
        progress: show a progress bar.

    Returns:
        The number of images written.

    Raises:
        DatasetError: if the destination exists, two images would share a PNG or an id, or a
            sample's segments and pixels do not belong together.
    """
    json_file, panoptic_dir = Path(json_file), Path(panoptic_dir)
    classes = PanopticClasses.from_categories(list(categories))
    if not overwrite:
        _check_free(json_file, panoptic_dir)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    partial_dir = panoptic_dir.with_name(f".{panoptic_dir.name}.partial-{os.getpid()}")
    shutil.rmtree(partial_dir, ignore_errors=True)
    partial_dir.mkdir(parents=True)
    images, annotations = [], []
    try:
        for sample in tqdm(samples, total=total, desc=json_file.name, disable=not progress):
            image, annotation = _write_sample(sample, len(images) + 1, partial_dir, classes)
            images.append(image)
            annotations.append(annotation)
        _check_unique((image["id"] for image in images), "image_id")
        content = {
            "info": info or {},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": list(categories),
        }
        json_file.unlink(missing_ok=True)  # no JSON ever stands beside PNGs that are not its own
        _move_into(partial_dir, panoptic_dir)
        write_atomically(json_file, lambda f: f.write(json.dumps(content).encode()))
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)
    return len(images)


def _check_free(json_file: Path, panoptic_dir: Path) -> None:
    if json_file.exists():
        raise DatasetError(f"{json_file} exists already: remove it or choose another name")
    if panoptic_dir.exists() and (not panoptic_dir.is_dir() or any(panoptic_dir.iterdir())):
        raise DatasetError(f"{panoptic_dir} is not an empty folder: remove it or choose another")


def _write_sample(
    sample: PanopticSample, number: int, panoptic_dir: Path, classes: PanopticClasses
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one PNG; return the image's and the annotation's entries in the JSON."""
    image_id = number if sample.image_id is None else sample.image_id
    png_name = Path(sample.file_name).with_suffix(".png")
    png = panoptic_dir / png_name
    if png_name.is_absolute() or ".." in png_name.parts:
        raise DatasetError(f"{sample.file_name}: expected a path relative to the image folder")
    if png.exists():
        raise DatasetError(f"{sample.file_name}: an earlier image has the same PNG {png_name}")
    segments_info = _described_segments(sample, classes)
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


def _described_segments(sample: PanopticSample, classes: PanopticClasses) -> list[dict[str, Any]]:
    found = find_segments(sample.id_map)
    area = dict(zip(found.ids.tolist(), found.areas.tolist(), strict=True))
    bbox = dict(zip(found.ids.tolist(), found.boxes.tolist(), strict=True))
    segments_info = []
    for segment in sample.segments:
        info = {**segment, "iscrowd": int(segment.get("iscrowd", 0))}
        _segment_info(info, sample.file_name, classes)
        if info["id"] in area:
            segments_info.append({**info, "area": area[info["id"]], "bbox": bbox[info["id"]]})
    _check_unique((s["id"] for s in segments_info), f"{sample.file_name}: segment id")
    unknown = area.keys() - {s["id"] for s in segments_info} - {VOID}
    if unknown:
        raise DatasetError(
            f"{sample.file_name}: pixels have the ids {_shorten(sorted(unknown))}, but no segment "
            f"does; use {VOID} for void"
        )
    return segments_info


def _move_into(source: Path, destination: Path) -> None:
    """Move all files of a tree, replacing those that exist."""
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        target = destination / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
