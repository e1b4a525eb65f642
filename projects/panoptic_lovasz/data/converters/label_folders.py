"""Two folders of label PNGs, semantic classes and instance numbers: what most tools can write."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from ..writer import PanopticSample, write_coco_panoptic
from .folders import check_void_labels, label_reader, pair_files

__all__ = ["convert_label_folders"]


def convert_label_folders(
    images: str | os.PathLike,
    semantic: str | os.PathLike,
    instances: str | os.PathLike,
    categories: Sequence[dict[str, Any]],
    json_file: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    *,
    void_labels: Collection[int] = (255,),
    follow_links: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Convert images with a semantic PNG and an instance PNG each to the COCO panoptic format.

    The files of an image have its relative path and the suffix .png. A semantic PNG holds category
    ids, an instance PNG (8 or 16 bits) numbers that tell the things of one category apart; they
    are not read for stuff. Pixels of a thing category with the instance number 0 belong to no
    single object and become a crowd, which neither training nor evaluation counts.

    Args:
        images, semantic, instances: the three folders.
        categories: as in the COCO panoptic format; their ids are the semantic labels.
        json_file, panoptic_dir: what to write.
        void_labels: semantic labels of pixels without annotation.
        follow_links: let symbolic links lead out of the folders.
        overwrite: replace an earlier conversion.
        progress: show a progress bar.

    Returns:
        The number of images.

    Raises:
        DatasetError: if a file is missing or unreadable, or a semantic label is neither a category
            nor void, or both; the message names the file and the value.
    """
    images = Path(images)
    triples = [
        (image, semantic_file, instance_file)
        for (image, semantic_file), (_, instance_file) in zip(
            pair_files(images, Path(semantic), follow_links),
            pair_files(images, Path(instances), follow_links),
            strict=True,
        )
    ]
    return write_coco_panoptic(
        json_file,
        panoptic_dir,
        categories,
        _samples(triples, images, categories, void_labels),
        total=len(triples),
        overwrite=overwrite,
        progress=progress,
    )


def _samples(
    triples: list[tuple[Path, Path, Path]],
    images: Path,
    categories: Sequence[dict[str, Any]],
    void_labels: Collection[int],
) -> Iterator[PanopticSample]:
    isthing = {c["id"]: bool(c["isthing"]) for c in categories}
    check_void_labels(isthing, void_labels)
    with label_reader() as read_labels:
        for image_file, semantic_file, instance_file in triples:
            labels = read_labels(semantic_file, image_file)
            numbers = read_labels(instance_file, image_file)
            unknown = set(np.unique(labels).tolist()) - set(isthing) - set(void_labels)
            if unknown:
                raise DatasetError(
                    f"{semantic_file} has the labels {sorted(unknown)}, which are neither "
                    f"categories ({sorted(isthing)}) nor void ({sorted(void_labels)})"
                )
            id_map, segments = combine_labels(labels, numbers, isthing, void_labels)
            yield PanopticSample(image_file.relative_to(images).as_posix(), id_map, segments)


def combine_labels(
    labels: np.ndarray,
    numbers: np.ndarray,
    isthing: dict[int, bool],
    void_labels: Collection[int],
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Segment ids (H, W), and the segments, of a semantic and an instance map.

    Args:
        labels: int (H, W) category ids or void labels.
        numbers: int (H, W) instance numbers, 0 for a thing that is not told apart (crowd).
        isthing: category id -> whether it is a thing.
        void_labels: labels of pixels without annotation.
    """
    things = [category for category, thing in isthing.items() if thing]
    numbers = np.where(np.isin(labels, things), numbers, 0).astype(np.int64)
    keys = labels.astype(np.int64) * (numbers.max() + 1) + numbers
    found, index = np.unique(keys, return_inverse=True)
    ids = np.zeros(len(found), np.int32)
    segments: list[dict[str, int]] = []
    for n, key in enumerate(found.tolist()):
        category, number = divmod(key, int(numbers.max()) + 1)
        if category in void_labels:
            continue
        crowd = int(isthing[category] and number == 0)
        segments.append({"id": len(segments) + 1, "category_id": category, "iscrowd": crowd})
        ids[n] = segments[-1]["id"]
    return ids[index].reshape(labels.shape), segments
