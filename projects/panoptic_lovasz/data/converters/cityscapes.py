"""Cityscapes (Cordts et al. 2016) from its own download: gtFine and leftImg8bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from ..images import is_hidden
from ..paths import Folder
from ..writer import PanopticSample, write_coco_panoptic
from .folders import label_reader, link_folder
from .label_folders import combine_labels

__all__ = ["convert_cityscapes"]

_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_CLASSES = (  # the 19 of the benchmark: id in the label maps, name, isthing, color
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 0, (244, 35, 232)),
    (11, "building", 0, (70, 70, 70)),
    (12, "wall", 0, (102, 102, 156)),
    (13, "fence", 0, (190, 153, 153)),
    (17, "pole", 0, (153, 153, 153)),
    (19, "traffic light", 0, (250, 170, 30)),
    (20, "traffic sign", 0, (220, 220, 0)),
    (21, "vegetation", 0, (107, 142, 35)),
    (22, "terrain", 0, (152, 251, 152)),
    (23, "sky", 0, (70, 130, 180)),
    (24, "person", 1, (220, 20, 60)),
    (25, "rider", 1, (255, 0, 0)),
    (26, "car", 1, (0, 0, 142)),
    (27, "truck", 1, (0, 0, 70)),
    (28, "bus", 1, (0, 60, 100)),
    (31, "train", 1, (0, 80, 100)),
    (32, "motorcycle", 1, (0, 0, 230)),
    (33, "bicycle", 1, (119, 11, 32)),
)
CATEGORIES: list[dict[str, Any]] = [
    {"id": i, "name": name, "isthing": isthing, "color": list(color)}
    for i, name, isthing, color in _CLASSES
]


def convert_cityscapes(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    follow_links: bool = False,
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
        follow_links: let symbolic links lead out of the folders.
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
        labels = source / "gtFine" / split
        names = [p.relative_to(labels) for p in sorted(labels.glob(f"*/*{_LABEL}"))]
        names = [name for name in names if not is_hidden(name)]
        if not names:
            continue
        link_folder(images, output / split)
        counts[split] = write_coco_panoptic(
            output / "annotations" / f"panoptic_{split}.json",
            output / f"panoptic_{split}",
            CATEGORIES,
            _samples(names, Folder(images, follow_links), Folder(labels, follow_links)),
            total=len(names),
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


def _samples(names: list[Path], images: Folder, labels: Folder) -> Iterator[PanopticSample]:
    isthing = {c["id"]: bool(c["isthing"]) for c in CATEGORIES}
    with label_reader() as read_labels:
        for name in names:
            image = f"{name.parent.name}/{name.name.removesuffix(_LABEL)}{_IMAGE}"
            try:
                image_file = Path(images.find(image))
            except FileNotFoundError as error:
                raise DatasetError(f"{name} has no image: {error} does not exist") from None
            values = read_labels(Path(labels.find(str(name))), image_file)
            is_instance = values >= 1000
            ids = np.where(is_instance, values // 1000, values)
            numbers = np.where(is_instance, values % 1000 + 1, 0)  # the first has number 0
            void = set(np.unique(ids).tolist()) - set(isthing)
            id_map, segments = combine_labels(ids, numbers, isthing, void)
            yield PanopticSample(image, id_map, segments)
