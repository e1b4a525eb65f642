"""A COCO instances JSON and PNGs of stuff: what Detectron2's "separated" data sets consist of."""

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
from ..writer import PanopticSample, write_coco_panoptic
from .folders import read_labels

__all__ = ["convert_coco_instances"]


def convert_coco_instances(
    instances_json: str | os.PathLike,
    images: str | os.PathLike,
    stuff: str | os.PathLike,
    stuff_categories: Sequence[dict[str, Any]],
    json_file: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    *,
    void_labels: Collection[int] = (0, 255),
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Convert a COCO instances JSON with PNGs of stuff to the COCO panoptic format.

    A panoptic map gives each pixel to one segment: things cover stuff, and of two things that
    overlap the smaller one covers the larger. A thing that the others hide is left out.

    Args:
        instances_json: annotations of things, as polygons or RLE.
        images: folder of the images.
        stuff: folder of PNGs, one an image, that hold ids of ``stuff_categories``.
        stuff_categories: "id", "name" and optionally "color"; the ids must not be those of things.
        json_file, panoptic_dir: what to write.
        void_labels: labels in the PNGs of pixels that are no stuff.
        overwrite: replace an earlier conversion.
        progress: show a progress bar.

    Returns:
        The number of images.

    Raises:
        DatasetError: if a file is missing or unreadable, a mask cannot be decoded, or a label is
            no stuff category.
    """
    coco = _load(instances_json)
    categories = [{**c, "isthing": 1} for c in coco.dataset["categories"]]
    categories += [{**c, "isthing": 0} for c in stuff_categories]
    return write_coco_panoptic(
        json_file,
        panoptic_dir,
        [{k: c[k] for k in ("id", "name", "isthing", "color") if k in c} for c in categories],
        _samples(
            coco, Path(images), Path(stuff), {c["id"] for c in stuff_categories}, set(void_labels)
        ),
        total=len(coco.imgs),
        overwrite=overwrite,
        progress=progress,
    )


def _load(instances_json: str | os.PathLike) -> COCO:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it loads
            coco = COCO(os.fspath(instances_json))
        if not coco.imgs or not coco.cats:
            raise KeyError("images or categories")
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DatasetError(f"{instances_json} is no COCO instances JSON: {error!r}") from error
    return coco


def _samples(
    coco: COCO, images: Path, stuff: Path, stuff_ids: set[int], void_labels: set[int]
) -> Iterator[PanopticSample]:
    for image_id, image in sorted(coco.imgs.items()):
        image_file = images / image["file_name"]
        stuff_file = (stuff / image["file_name"]).with_suffix(".png")
        labels = read_labels(stuff_file, image_file)
        unknown = set(np.unique(labels).tolist()) - stuff_ids - void_labels
        if unknown:
            raise DatasetError(
                f"{stuff_file} has the labels {sorted(unknown)}, which are neither stuff "
                f"categories ({sorted(stuff_ids)}) nor void ({sorted(void_labels)})"
            )
        id_map, segments = np.zeros(labels.shape, np.int32), []
        for label in sorted(set(np.unique(labels).tolist()) - void_labels):
            segments.append({"id": len(segments) + 1, "category_id": label})
            id_map[labels == label] = segments[-1]["id"]
        for mask, annotation in _masks(coco, image_id, f"{image_file}", labels.shape):
            segments.append(
                {
                    "id": len(segments) + 1,
                    "category_id": annotation["category_id"],
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                }
            )
            id_map[mask] = segments[-1]["id"]
        yield PanopticSample(image["file_name"], id_map, segments, image_id)


def _masks(
    coco: COCO, image_id: int, where: str, shape: tuple[int, int]
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Masks and annotations of an image's things: crowds first, then from large to small."""
    masks = []
    for annotation in coco.imgToAnns[image_id]:
        try:
            mask = coco.annToMask(annotation).astype(bool)
        except Exception as error:  # pycocotools raises errors of many types for a bad mask
            raise DatasetError(
                f"{where}: the mask of annotation {annotation.get('id')} cannot be decoded: {error}"
            ) from error
        if mask.shape != shape:
            raise DatasetError(
                f"{where} is {shape[1]} x {shape[0]} pixels, but its entry in the JSON says "
                f"{mask.shape[1]} x {mask.shape[0]} (width x height)"
            )
        masks.append((mask, annotation))
    return sorted(masks, key=lambda m: (not m[1].get("iscrowd", 0), -int(m[0].sum())))
