"""Instance evaluation (AP) against the things of the panoptic ground truth."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools import mask as mask_util
from tqdm import tqdm

from ..data.id_map import find_segments
from ..files import write_text
from .ground_truth import PanopticGroundTruth

__all__ = ["PanopticInstanceEvaluator", "derive_instances"]

logger = logging.getLogger(__name__)


class PanopticInstanceEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` for data sets that have only panoptic annotations.

    Where the metadata names an instance JSON that is there (``json_file``: Detectron2's COCO) that
    is the ground truth; else one is derived from the panoptic PNGs and kept in ``output_dir`` for
    the next time. The AP is the official one, of pycocotools.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike,
        distributed: bool = True,
        *,
        ground_truth: PanopticGroundTruth | None = None,
    ):
        """Read or derive the instances of a registered data set.

        Args:
            dataset_name: name of a data set in the COCO panoptic format.
            output_dir: folder for the derived JSON and for the predictions.
            distributed: gather the predictions of all processes.
            ground_truth: the data set's ground truth if it has been read already.
        """
        gt = ground_truth or PanopticGroundTruth(dataset_name)
        json_file = gt.metadata.get("json_file")
        if json_file is None or not PathManager.isfile(json_file):
            json_file = str(_cached_instances(gt, Path(output_dir)))
        # COCOEvaluator takes files and classes from the metadata of a name: give it one of its own,
        # whose thing classes are 0..T-1 also where all classes are numbered in one range.
        name = f"{dataset_name}:{json_file}"
        metadata = gt.classes.metadata()
        MetadataCatalog.get(name).set(
            json_file=json_file,
            thing_classes=metadata["thing_classes"],
            thing_dataset_id_to_contiguous_id=metadata["thing_dataset_id_to_contiguous_id"],
        )
        super().__init__(
            name, distributed=distributed, output_dir=os.fspath(output_dir), use_fast_impl=False
        )


def derive_instances(gt: PanopticGroundTruth, progress: bool = True) -> dict[str, Any]:
    """The things of a panoptic ground truth as a COCO instances JSON, masks as RLE."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    hidden = None if progress else True  # None: shown if stderr is a terminal
    for image_id, annotation in tqdm(gt.annotations.items(), "instances", disable=hidden):
        id_map = annotation.read()
        images.append({"id": image_id, "height": id_map.shape[0], "width": id_map.shape[1]})
        found = find_segments(id_map)
        boxes = dict(zip(found.ids.tolist(), found.boxes.tolist(), strict=True))
        areas = dict(zip(found.ids.tolist(), found.areas.tolist(), strict=True))
        for segment in annotation.segments:
            isthing, _ = gt.classes.from_dataset_id[segment["category_id"]]
            if not isthing or segment["id"] not in areas:
                continue
            rle = mask_util.encode(np.asfortranarray(id_map == segment["id"], dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": segment["category_id"],
                    "iscrowd": int(segment.get("iscrowd", 0)),
                    "bbox": boxes[segment["id"]],
                    "area": areas[segment["id"]],
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    categories = [c for c in gt.classes.categories if c["isthing"]]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _cached_instances(gt: PanopticGroundTruth, folder: Path) -> Path:
    """Path of the derived JSON; its name changes with annotations and PNGs."""
    path = folder / f"{gt.name}_instances_{_fingerprint(gt)}.json"
    if comm.get_local_rank() == 0 and not path.is_file():
        logger.info(f"Deriving the instances of '{gt.name}' from its panoptic PNGs: {path}")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(derive_instances(gt)))
    comm.synchronize()
    return path


def _fingerprint(gt: PanopticGroundTruth) -> str:
    digest = hashlib.sha256(repr(gt.classes.categories).encode())
    for image_id, annotation in gt.annotations.items():
        png = os.stat(annotation.png)
        content = (image_id, annotation.segments, png.st_size, png.st_mtime_ns)
        digest.update(repr(content).encode())
    return digest.hexdigest()[:12]
