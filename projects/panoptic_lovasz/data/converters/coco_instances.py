"""COCO instances JSON, with stuff in PNGs or among the polygons.

Detectron2's "separated" data sets are of the first kind; the second is what CVAT, Label Studio and
others export as "COCO".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from ..coco_instances import CocoInstances, InstanceChoices
from ..fields import check_field
from ..instance_painter import InstancePainter
from ..paths import Folder
from ..writer import PanopticSample, write_coco_panoptic
from .folders import LabelReader, check_void_labels, find_png, label_reader

__all__ = ["convert_coco_instances"]

logger = logging.getLogger(__name__)


def convert_coco_instances(
    instances_json: str | os.PathLike,
    images: str | os.PathLike,
    json_file: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    *,
    stuff_pngs: str | os.PathLike | None = None,
    stuff_categories: Sequence[dict[str, Any]] = (),
    void_labels: Collection[int] = (0, 255),
    overwrite: bool = False,
    progress: bool = True,
    **choices: Any,
) -> int:
    """Convert a COCO instances JSON to the COCO panoptic format.

    A panoptic map gives each pixel to one segment: things cover stuff, and of two masks of a kind
    that overlap the smaller one covers the larger. A thing that others hide is left out. What is
    left out or looks like a habit of an annotation tool is counted in warnings.

    Args:
        instances_json: polygons or RLE masks.
        images: folder of the images.
        json_file, panoptic_dir: what to write.
        stuff_pngs: folder of PNGs, one an image, that hold ids of ``stuff_categories``.
        stuff_categories: "id", "name" and optionally "color" of the stuff in the PNGs; the ids
            must not be those of the JSON's categories.
        void_labels: labels in the PNGs of pixels that are not stuff.
        overwrite: replace an earlier conversion.
        progress: show a progress bar if stderr is a terminal.
        choices: what to make of what annotation tools write: fields of
            :class:`~panoptic_lovasz.data.coco_instances.InstanceChoices`, such as ``stuff_names``.

    Returns:
        The number of images.

    Raises:
        DatasetError: if a file is missing or unreadable, a record refers to none or is there twice,
            a mask is damaged, a name is not one of the JSON's, a label in a PNG is not a stuff
            category, or a void label is one.
    """
    coco = CocoInstances(instances_json, images, InstanceChoices(**choices))
    if coco.errors:
        more = len(coco.errors) - 1
        hint = f" (and {more} more; tools.check_dataset lists them)" if more else ""
        fault = coco.errors[0]
        raise DatasetError(f"{fault.file}: {fault.field}: {fault.message}{hint}")
    for fault in coco.faults:
        logger.warning(str(fault))
    for n, category in enumerate(stuff_categories):
        check_field(category, "id", (int,), f"stuff_categories[{n}]")
    stuff = [{k: c[k] for k in ("id", "name", "color") if k in c} for c in stuff_categories]
    pngs = None
    if stuff_pngs:
        folder = Folder(stuff_pngs, coco.choices.follow_links)
        pngs = _StuffPngs(folder, stuff_categories, void_labels)
    return write_coco_panoptic(
        json_file,
        panoptic_dir,
        [*coco.categories, *({**c, "isthing": 0} for c in stuff)],
        _samples(coco, pngs),
        total=len(coco.images),
        overwrite=overwrite,
        progress=progress,
    )


class _StuffPngs:
    """Label PNGs of stuff, one an image."""

    def __init__(self, folder: Folder, categories: Sequence[dict], void_labels: Collection[int]):
        self.folder, self.void_labels = folder, set(void_labels)
        self.ids = {c["id"] for c in categories}
        check_void_labels(self.ids, self.void_labels)

    def read(
        self, file_name: str, image_file: Path, read_labels: LabelReader
    ) -> list[tuple[np.ndarray, int]]:
        """Mask and category id of each stuff category of an image."""
        try:
            file = find_png(Path(file_name), self.folder)
        except FileNotFoundError:
            raise DatasetError(
                f"the stuff PNG of image {file_name} is missing"
                f"{self.folder.describe_missing([str(Path(file_name).with_suffix('.png'))])}"
            ) from None
        labels = read_labels(file, image_file)
        found = set(np.unique(labels).tolist()) - self.void_labels
        if found - self.ids:
            raise DatasetError(
                f"{file} has the labels {sorted(found - self.ids)}, which are neither stuff "
                f"categories ({sorted(self.ids)}) nor void ({sorted(self.void_labels)})"
            )
        return [(labels == label, label) for label in sorted(found)]


def _samples(coco: CocoInstances, pngs: _StuffPngs | None) -> Iterator[PanopticSample]:
    painter = InstancePainter(coco)
    with label_reader() as read_labels:
        for image in coco.images:
            name, file = image["file_name"], Path(coco.files[image["id"]])
            below = pngs.read(name, file, read_labels) if pngs else []
            painted = painter.paint(image, below)
            relative = coco.folder.relative(os.path.abspath(file))
            yield PanopticSample(relative, painted.id_map, painted.segments, image["id"])
    for fault in painter.summary():
        logger.warning(str(fault))
