"""CamVid (Brostow et al. 2009) in the public 11-class layout of SegNet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ...errors import DatasetError
from ..writer import PanopticSample, write_coco_panoptic
from .folders import label_reader, link_folder, pair_files

__all__ = ["CAMVID_CATEGORIES", "convert_camvid"]

_VOID = 11
_CLASSES = (  # in the order of the labels; colors of the CamVid release
    ("Sky", 0, (128, 128, 128)),
    ("Building", 0, (128, 0, 0)),
    ("Pole", 0, (192, 192, 128)),
    ("Road", 0, (128, 64, 128)),
    ("Pavement", 0, (60, 40, 222)),
    ("Tree", 0, (128, 128, 0)),
    ("SignSymbol", 0, (192, 128, 128)),
    ("Fence", 0, (64, 64, 128)),
    ("Car", 1, (64, 0, 128)),
    ("Pedestrian", 1, (64, 64, 0)),
    ("Bicyclist", 1, (0, 128, 192)),
)
# Category ids are the labels plus one, so that 0 stays free for void.
CAMVID_CATEGORIES = [
    {"id": label + 1, "name": name, "isthing": isthing, "color": list(color)}
    for label, (name, isthing, color) in enumerate(_CLASSES)
]


def convert_camvid(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    min_instance_area: int = 20,
    follow_links: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Convert CamVid to the COCO panoptic format.

    Reads ``source/{train,val,test}/NAME.{jpg,png}`` with labels in ``source/{split}annot/NAME.png``
    (0..10, 11 is void). CamVid has no instance labels: every connected component of Car,
    Pedestrian or Bicyclist becomes an instance, and components smaller than ``min_instance_area``
    pixels, which are specks of the annotation, become a crowd that neither training nor evaluation
    counts.

    Args:
        source: the folder of the release.
        output: gets annotations/panoptic_{split}.json, panoptic_{split}/ and, if it is another
            folder than ``source``, links {split} to the images.
        min_instance_area: in pixels.
        follow_links: let symbolic links lead out of the folders.
        overwrite: replace an earlier conversion.
        progress: show progress bars.

    Returns:
        Number of images by split.

    Raises:
        DatasetError: if no split is there, a label file is missing, or a label is out of range.
    """
    source, output = Path(source), Path(output)
    splits = [s for s in ("train", "val", "test") if (source / f"{s}annot").is_dir()]
    if not splits:
        raise DatasetError(
            f"{source} has none of the folders trainannot, valannot, testannot: expected the "
            "CamVid release in SegNet's layout"
        )
    counts = {}
    for split in splits:
        pairs = pair_files(source / split, source / f"{split}annot", follow_links)
        link_folder(source / split, output / split)
        counts[split] = write_coco_panoptic(
            output / "annotations" / f"panoptic_{split}.json",
            output / f"panoptic_{split}",
            CAMVID_CATEGORIES,
            _samples(pairs, source / split, min_instance_area),
            total=len(pairs),
            info={"description": f"CamVid {split}, 11 classes, instances by connected component"},
            overwrite=overwrite,
            progress=progress,
        )
    return counts


def _samples(
    pairs: list[tuple[Path, Path]], images: Path, min_instance_area: int
) -> Iterator[PanopticSample]:
    with label_reader() as read_labels:
        for image_file, label_file in pairs:
            labels = read_labels(label_file, image_file)
            if not 0 <= labels.min() <= labels.max() <= _VOID:
                unknown = labels[(labels < 0) | (labels > _VOID)][0]
                raise DatasetError(
                    f"{label_file} has the label {unknown}, expected 0..10, or {_VOID} for void"
                )
            id_map, segments = _segments(labels, min_instance_area)
            yield PanopticSample(image_file.relative_to(images).as_posix(), id_map, segments)


def _segments(labels: np.ndarray, min_instance_area: int) -> tuple[np.ndarray, list[dict]]:
    """Ids and segments of a label map: stuff whole, things by connected component."""
    id_map = np.zeros(labels.shape, np.int32)
    segments: list[dict[str, int]] = []

    def add(mask: np.ndarray, category: dict, iscrowd: int = 0) -> None:
        segments.append({"id": len(segments) + 1, "category_id": category["id"]})
        segments[-1]["iscrowd"] = iscrowd
        id_map[mask] = segments[-1]["id"]

    for label, category in enumerate(CAMVID_CATEGORIES):
        mask = labels == label
        if not category["isthing"]:
            add(mask, category)
            continue
        count, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        specks = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < min_instance_area)
        for component in range(1, count):
            if component not in specks:
                add(components == component, category)
        if specks.size:
            add(np.isin(components, specks) & mask, category, iscrowd=1)
    return id_map, segments
