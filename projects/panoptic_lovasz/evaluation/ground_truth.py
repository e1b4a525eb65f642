"""The panoptic ground truth of a registered data set, as evaluation needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog

from ..data.classes import IGNORE_LABEL, PanopticClasses
from ..data.coco_panoptic import read_coco_panoptic_json
from ..data.id_map import label_runs, read_panoptic_png
from ..data.paths import Folder
from ..data.register import load_registered
from ..errors import DatasetError
from .pixels import find_positions

__all__ = ["Annotation", "PanopticGroundTruth"]

ImageId = int | str


class Annotation(NamedTuple):
    """One image: the path of its id PNG, its segments with the data set's own category ids, and
    its width and height where the data set has them.
    """

    png: str
    segments: Sequence[dict[str, Any]]
    size: tuple[int, int] | None

    def read(self) -> np.ndarray:
        """Segment ids, int32 (H, W)."""
        return read_panoptic_png(self.png, self.size)


class PanopticGroundTruth:
    """Annotations of a registered data set by image id; the PNGs are read when asked for.

    The annotations come from the dataset dicts (``pan_seg_file_name``, ``segments_info``) or, where
    these have none (Detectron2's ``coco_2017_val_panoptic_separated``), from the metadata's
    ``panoptic_json`` and ``panoptic_root``.

    Attributes:
        name (str): the data set's name.
        metadata (Metadata): its Detectron2 metadata.
        classes (PanopticClasses): its classes.
        annotations (dict[int or str, Annotation]): by image id.
    """

    def __init__(self, dataset_name: str):
        """Args: dataset_name: name of a registered data set.

        Raises:
            DatasetError: it has no panoptic classes or annotations.
        """
        self.name = dataset_name
        self.metadata = MetadataCatalog.get(dataset_name)
        self.classes = PanopticClasses.from_metadata(self.metadata)
        dicts = load_registered(dataset_name)
        if all("pan_seg_file_name" in d and "segments_info" in d for d in dicts):
            self.annotations = {d["image_id"]: self._from_dataset_dict(d) for d in dicts}
        else:
            self.annotations = self._from_json({d["image_id"] for d in dicts})
        self._last: tuple[ImageId, np.ndarray] | None = None

    def annotation(self, image: dict[str, Any]) -> Annotation:
        """The annotation of a model's input dict, which has ``image_id``."""
        if image["image_id"] not in self.annotations:
            raise DatasetError(
                f"{image.get('file_name', 'image')}: image_id {image['image_id']!r} is not in the "
                f"data set '{self.name}'"
            )
        return self.annotations[image["image_id"]]

    def id_map(self, image: dict[str, Any]) -> np.ndarray:
        """Segment ids, int32 (H, W); the last map is kept, as evaluators ask for it in turn."""
        annotation = self.annotation(image)
        if self._last is None or self._last[0] != image["image_id"]:
            self._last = image["image_id"], annotation.read()
        return self._last[1]

    def semantic_map(self, image: dict[str, Any]) -> np.ndarray:
        """Semantic labels, int64 (H, W): 0 things, 1..S stuff, 255 void and crowd."""
        segments = self.annotation(image).segments
        labels = [IGNORE_LABEL if s.get("iscrowd", 0) else self._label(s) for s in segments]
        ids = np.array([s["id"] for s in segments], dtype=np.int64)
        id_map = self.id_map(image)
        runs = label_runs(id_map)
        lookup = np.array([*labels, IGNORE_LABEL, IGNORE_LABEL], dtype=np.int64)
        of_runs = lookup[find_positions(ids, runs.values)]
        return np.repeat(of_runs, runs.lengths).reshape(id_map.shape)

    def _label(self, segment: dict[str, Any]) -> int:
        isthing, class_id = self.classes.from_dataset_id[segment["category_id"]]
        return 0 if isthing else class_id

    def _from_dataset_dict(self, record: dict[str, Any]) -> Annotation:
        segments = [
            {
                "id": s["id"],
                "category_id": self.classes.dataset_id(*self.classes.segment_class(s)),
                "iscrowd": s.get("iscrowd", 0),
            }
            for s in record["segments_info"]
        ]
        return Annotation(record["pan_seg_file_name"], segments, _size(record))

    def _from_json(self, image_ids: set[ImageId]) -> dict[ImageId, Annotation]:
        json_file = self.metadata.get("panoptic_json")
        if json_file is None:
            raise DatasetError(
                f"data set '{self.name}' has no panoptic ground truth: neither segments_info and "
                "pan_seg_file_name in its dicts nor panoptic_json in its metadata"
            )
        content = read_coco_panoptic_json(json_file)
        pngs = Folder(self.metadata.panoptic_root)
        sizes = {image["id"]: _size(image) for image in content["images"]}
        annotations = {
            a["image_id"]: Annotation(
                pngs.find_png(a["file_name"], json_file),
                a["segments_info"],
                sizes.get(a["image_id"]),
            )
            for a in content["annotations"]
            if a["image_id"] in image_ids
        }
        missing = image_ids - annotations.keys()
        if missing:
            raise DatasetError(
                f"{json_file}: {len(missing)} of the {len(image_ids)} images of '{self.name}' have "
                f"no annotation, for instance image_id {next(iter(missing))!r}"
            )
        return annotations


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an image's record; some of Detectron2's own have none."""
    return (record["width"], record["height"]) if {"width", "height"} <= record.keys() else None
