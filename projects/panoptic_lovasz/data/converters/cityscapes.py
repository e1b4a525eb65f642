"""Cityscapes (Cordts et al. 2016) from its own download: gtFine and leftImg8bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from ...errors import DatasetError
from ..writer import PanopticSample, write_coco_panoptic
from .folders import link_folder, read_labels
from .label_folders import combine_labels

__all__ = ["convert_cityscapes"]

_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_instanceIds.png"
# The ids of the 19 classes of the benchmark in Cityscapes' label maps, in the order of
# Detectron2's list (their "trainIds").
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CATEGORIES = [
    {"id": i, "name": c["name"], "isthing": c["isthing"], "color": list(c["color"])}
    for i, c in zip(_IDS, CITYSCAPES_CATEGORIES, strict=True)
]


def convert_cityscapes(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Convert Cityscapes to the COCO panoptic format, from the files of the download alone.

    Reads ``source/gtFine/{train,val}/CITY/*_gtFine_instanceIds.png`` beside
    ``source/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png``. Values from 1000 on are
    1000 * id + number of an instance; a thing's plain id is a group, which becomes a crowd. This
    gives the segments of cityscapesscripts' ``createPanopticImgs``.

    Args:
        source: folder with gtFine/ and leftImg8bit/.
        output: gets annotations/panoptic_{split}.json, panoptic_{split}/ and links {split} to the
            images.
        overwrite: replace an earlier conversion.
        progress: show progress bars.

    Returns:
        Number of images by split.

    Raises:
        DatasetError: if no split is there or a file is missing or unreadable.
    """
    source, output = Path(source), Path(output)
    counts = {}
    for split in ("train", "val"):
        images = source / "leftImg8bit" / split
        labels = sorted((source / "gtFine" / split).glob(f"*/*{_LABEL}"))
        if not labels:
            continue
        link_folder(images, output / split)
        counts[split] = write_coco_panoptic(
            output / "annotations" / f"panoptic_{split}.json",
            output / f"panoptic_{split}",
            CATEGORIES,
            _samples(labels, images),
            total=len(labels),
            info={"description": f"Cityscapes {split}, 19 classes"},
            overwrite=overwrite,
            progress=progress,
        )
    if not counts:
        raise DatasetError(
            f"{source} has no gtFine/{{train,val}}/CITY/*{_LABEL}: expected the unpacked downloads "
            "gtFine_trainvaltest and leftImg8bit_trainvaltest"
        )
    return counts


def _samples(labels: list[Path], images: Path) -> Iterator[PanopticSample]:
    isthing = {c["id"]: bool(c["isthing"]) for c in CATEGORIES}
    for label_file in labels:
        city = label_file.parent.name
        image_file = images / city / label_file.name.replace(_LABEL, _IMAGE)
        values = read_labels(label_file, image_file)
        is_instance = values >= 1000
        ids = np.where(is_instance, values // 1000, values)
        numbers = np.where(is_instance, values % 1000 + 1, 0)  # the first instance has number 0
        void = set(np.unique(ids).tolist()) - set(isthing)
        id_map, segments = combine_labels(ids, numbers, isthing, void)
        yield PanopticSample(f"{city}/{image_file.name}", id_map, segments)
