"""COCO instances JSON, with stuff in PNGs or among the polygons.

Detectron2's "separated" data sets are of the first kind; the second is what CVAT, Label Studio and
others export as "COCO".
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ...errors import DatasetError
from ..fields import check_field, check_file_name
from ..images import read_header
from ..paths import Folder
from ..writer import PanopticSample, write_coco_panoptic
from .folders import label_reader

__all__ = ["convert_coco_instances"]


def convert_coco_instances(
    instances_json: str | os.PathLike,
    images: str | os.PathLike,
    json_file: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    *,
    stuff_names: Collection[str] = (),
    stuff_pngs: str | os.PathLike | None = None,
    stuff_categories: Sequence[dict[str, Any]] = (),
    void_labels: Collection[int] = (0, 255),
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Convert a COCO instances JSON to the COCO panoptic format.

    A panoptic map gives each pixel to one segment: things cover stuff, and of two masks of a kind
    that overlap the smaller one covers the larger. A thing that others hide is left out.

    Args:
        instances_json: polygons or RLE masks.
        images: folder of the images.
        json_file, panoptic_dir: what to write.
        stuff_names: categories of the JSON that are stuff; their masks become one segment an image.
        stuff_pngs: folder of PNGs, one an image, that hold ids of ``stuff_categories``.
        stuff_categories: "id", "name" and optionally "color" of the stuff in the PNGs; the ids
            must not be those of the JSON's categories.
        void_labels: labels in the PNGs of pixels that are no stuff.
        overwrite: replace an earlier conversion.
        progress: show a progress bar.

    Returns:
        The number of images.

    Raises:
        DatasetError: if a file is missing or unreadable, a mask cannot be decoded, a name is not
            one of the JSON's, or a label in a PNG is no stuff category.
    """
    coco = _load(instances_json)
    for n, category in enumerate(stuff_categories):
        check_field(category, "id", (int,), f"stuff_categories[{n}]")
    names = {c["name"] for c in coco.dataset["categories"]}
    if set(stuff_names) - names:
        raise DatasetError(
            f"{instances_json} has no categories {sorted(set(stuff_names) - names)}; it has "
            f"{sorted(names)}"
        )
    categories = [
        {**c, "isthing": int(c["name"] not in stuff_names)} for c in coco.dataset["categories"]
    ]
    categories += [{**c, "isthing": 0} for c in stuff_categories]
    things = {c["id"] for c in categories if c["isthing"]}
    pngs = _StuffPngs(Path(stuff_pngs), stuff_categories, void_labels) if stuff_pngs else None
    return write_coco_panoptic(
        json_file,
        panoptic_dir,
        [{k: c[k] for k in ("id", "name", "isthing", "color") if k in c} for c in categories],
        _samples(coco, Folder(images), things, pngs),
        total=len(coco.imgs),
        overwrite=overwrite,
        progress=progress,
    )


class _StuffPngs:
    """Label PNGs of stuff, one an image."""

    def __init__(self, folder: Path, categories: Sequence[dict], void_labels: Collection[int]):
        self.folder, self.void_labels = folder, set(void_labels)
        self.ids = {c["id"] for c in categories}

    def read(
        self, file_name: str, image_file: Path, read_labels
    ) -> list[tuple[np.ndarray, dict[str, int]]]:
        """Mask and annotation of each stuff category of an image."""
        file = (self.folder / file_name).with_suffix(".png")
        labels = read_labels(file, image_file)
        found = set(np.unique(labels).tolist()) - self.void_labels
        if found - self.ids:
            raise DatasetError(
                f"{file} has the labels {sorted(found - self.ids)}, which are neither stuff "
                f"categories ({sorted(self.ids)}) nor void ({sorted(self.void_labels)})"
            )
        return [(labels == label, {"category_id": label}) for label in sorted(found)]


def _load(instances_json: str | os.PathLike) -> COCO:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it loads
            coco = COCO(os.fspath(instances_json))
        if not coco.imgs or not coco.cats:
            raise KeyError("images or categories")
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DatasetError(f"{instances_json} is no COCO instances JSON: {error!r}") from error
    for n, image in enumerate(coco.dataset["images"]):
        check_file_name(image, f"{instances_json}: images[{n}]")
    for n, category in enumerate(coco.dataset["categories"]):
        check_field(category, "name", (str,), f"{instances_json}: categories[{n}]")
    return coco


def _samples(
    coco: COCO, images: Folder, things: set[int], pngs: _StuffPngs | None
) -> Iterator[PanopticSample]:
    with label_reader() as read_labels:
        for image_id, image in sorted(coco.imgs.items()):
            image_file = Path(images.find(image["file_name"]))
            shape = read_header(image_file).size[::-1]
            masks = pngs.read(image["file_name"], image_file, read_labels) if pngs else []
            masks += _masks(coco, image_id, image_file, shape)
            id_map, segments = _paint(masks, things, shape)
            yield PanopticSample(image["file_name"], id_map, segments, image_id)


def _paint(
    masks: list[tuple[np.ndarray, dict[str, Any]]], things: set[int], shape: tuple[int, int]
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Ids and segments of masks that cover one another: stuff, then crowds, then things."""

    def order(mask_and_annotation: tuple[np.ndarray, dict]) -> tuple[bool, bool, int]:
        mask, annotation = mask_and_annotation
        thing = annotation["category_id"] in things
        return thing, not annotation.get("iscrowd", 0), -int(mask.sum())

    id_map = np.zeros(shape, np.int32)
    segments: list[dict[str, int]] = []
    id_of_stuff: dict[int, int] = {}
    for mask, annotation in sorted(masks, key=order):
        category = annotation["category_id"]
        segment_id = id_of_stuff.get(category)
        if segment_id is None:
            segment_id = len(segments) + 1
            crowd = int(category in things and annotation.get("iscrowd", 0))
            segments.append({"id": segment_id, "category_id": category, "iscrowd": crowd})
            if category not in things:
                id_of_stuff[category] = segment_id
        id_map[mask] = segment_id
    return id_map, segments


def _masks(
    coco: COCO, image_id: int, image_file: Path, shape: tuple[int, int]
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    masks = []
    for annotation in coco.imgToAnns[image_id]:
        try:
            mask = coco.annToMask(annotation).astype(bool)
        except Exception as error:  # pycocotools raises errors of many types for a bad mask
            raise DatasetError(
                f"{image_file}: the mask of annotation {annotation.get('id')} cannot be decoded: "
                f"{error}"
            ) from error
        if mask.shape != shape:
            raise DatasetError(
                f"{image_file} is {shape[1]} x {shape[0]} pixels, but its entry in the JSON says "
                f"{mask.shape[1]} x {mask.shape[0]} (width x height)"
            )
        masks.append((mask, annotation))
    return masks
