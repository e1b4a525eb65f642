"""The COCO panoptic format: one JSON of images, segments and categories beside a folder of id PNGs.

https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from ..errors import DatasetError
from .classes import PanopticClasses
from .fields import (
    check_field,
    check_file_name,
    check_unique,
    describe_unmatched,
    read_json,
    shorten,
)
from .id_map import MAX_SEGMENT_ID, VOID
from .paths import Folder

__all__ = [
    "annotated_images",
    "check_segment",
    "load_coco_panoptic_json",
    "read_coco_panoptic_json",
]

logger = logging.getLogger(__name__)


def read_coco_panoptic_json(json_file: str | os.PathLike) -> dict[str, Any]:
    """Read a COCO panoptic JSON and check its outline: the three lists that it must have.

    Raises:
        DatasetError: if the file is missing, is not JSON, or lacks one of the lists.
    """
    json_file = os.fspath(json_file)
    content = read_json(json_file, "panoptic JSON")
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
    *,
    follow_links: bool = False,
) -> list[dict[str, Any]]:
    """Load a data set in the COCO panoptic format as Detectron2 dataset dicts.

    Args:
        json_file: the panoptic JSON.
        image_dir: folder that the images' file names are relative to.
        panoptic_dir: folder that the annotations' file names are relative to.
        classes: numbering of the classes; by default that of the JSON's own categories.
        follow_links: let symbolic links lead out of the two folders.

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
    dicts = annotated_images(content, json_file, classes)
    images_in, pngs_in = (Folder(d, follow_links) for d in (image_dir, panoptic_dir))
    _resolve_files(dicts, "file_name", images_in, "image", json_file)
    _resolve_files(dicts, "pan_seg_file_name", pngs_in, "panoptic PNG", json_file)
    return dicts


def annotated_images(
    content: dict[str, Any], json_file: str, classes: PanopticClasses
) -> list[dict[str, Any]]:
    """The dataset dicts of :func:`load_coco_panoptic_json`, with file names as the JSON has them.

    Raises:
        DatasetError: as there, but for the files that the names belong to.
    """
    images = _index_images(content["images"], json_file)
    dicts = [
        _dataset_dict(annotation, f"{json_file}: annotations[{n}]", images, classes)
        for n, annotation in enumerate(content["annotations"])
    ]
    if not dicts:
        raise DatasetError(f"{json_file}: 'annotations' is empty, so there is nothing to learn")
    check_unique((d["image_id"] for d in dicts), f"{json_file}: annotations: image_id")
    check_unique((d["pan_seg_file_name"] for d in dicts), f"{json_file}: annotations: file_name")
    if len(dicts) < len(images):
        logger.warning(
            f"{json_file}: {len(images) - len(dicts)} of {len(images)} images have no annotation; "
            "they are left out"
        )
    return dicts


def _index_images(images: list[Any], json_file: str) -> dict[int | str, dict[str, Any]]:
    for n, image in enumerate(images):
        where = f"{json_file}: images[{n}]"
        check_field(image, "id", (int, str), where)
        check_file_name(image, where)
        for field in ("height", "width"):
            if check_field(image, field, (int,), where) <= 0:
                raise DatasetError(
                    f"{where}: {field} is {shorten(image[field])}, expected a size in pixels"
                )
    check_unique((image["id"] for image in images), f"{json_file}: images: id")
    check_unique((image["file_name"] for image in images), f"{json_file}: images: file_name")
    return {image["id"]: image for image in images}


def _dataset_dict(
    annotation: Any, where: str, images: dict[int | str, dict], classes: PanopticClasses
) -> dict[str, Any]:
    image_id = check_field(annotation, "image_id", (int, str), where)
    image = images.get(image_id)
    if image is None:
        what = describe_unmatched(image_id, images, "image")
        raise DatasetError(f"{where}: image_id {what}")
    segments = check_field(annotation, "segments_info", (list,), where)
    where = f"{where} (image {shorten(image['file_name'])})"
    segments_info = [
        check_segment(segment, f"{where}: segments_info[{n}]", classes)
        for n, segment in enumerate(segments)
    ]
    check_unique((s["id"] for s in segments_info), f"{where}: segments_info: id")
    return {
        "file_name": image["file_name"],
        "image_id": image_id,
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": check_file_name(annotation, where),
        "segments_info": segments_info,
    }


def check_segment(segment: Any, where: str, classes: PanopticClasses) -> dict[str, Any]:
    """Turn an entry of the JSON's ``segments_info`` into one of a dataset dict's.

    Raises:
        DatasetError: that begins with ``where``, if a field is missing or wrong.
    """
    segment_id = check_field(segment, "id", (int,), where)
    if not VOID < segment_id <= MAX_SEGMENT_ID:
        raise DatasetError(
            f"{where}: id is {shorten(segment_id)}, expected 1..{MAX_SEGMENT_ID}, the colors of a "
            "PNG without black, which is void"
        )
    category_id = check_field(segment, "category_id", (int,), where)
    known = classes.from_dataset_id.get(category_id)
    if known is None:
        raise DatasetError(
            f"{where}: segment {segment_id} has the category_id {shorten(category_id)}, expected "
            f"one of 'categories': {shorten(sorted(classes.from_dataset_id))}"
        )
    iscrowd = segment.get("iscrowd", 0)
    if iscrowd not in (0, 1):
        raise DatasetError(f"{where}: iscrowd is {shorten(iscrowd)}, expected 0 or 1")
    isthing, class_id = known
    info = {"id": segment_id, "category_id": class_id, "isthing": isthing, "iscrowd": int(iscrowd)}
    if "area" in segment:
        info["area"] = check_field(segment, "area", (int, float), where)
    if "bbox" in segment:
        bbox = check_field(segment, "bbox", (list,), where)
        if len(bbox) != 4 or not all(type(v) in (int, float) for v in bbox):
            raise DatasetError(f"{where}: bbox is {shorten(bbox)}, expected [x, y, width, height]")
        info["bbox"] = bbox
    return info


def _resolve_files(
    dicts: Sequence[dict[str, Any]], field: str, folder: Folder, kind: str, source: str
) -> None:
    """Turn file names into paths of files that exist."""
    missing = []
    for record in dicts:
        try:
            record[field] = folder.find(record[field])
        except FileNotFoundError:
            missing.append(record[field])
        except DatasetError as error:
            raise DatasetError(f"{source}: {error}") from None
    if missing:
        raise DatasetError(
            f"{source}: {len(missing)} of {len(dicts)} {kind} files are missing"
            f"{folder.describe_missing(missing)}"
        )
