"""From a dataset dict to what the model trains on: image, instances and semantic map."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.structures import Boxes, Instances
from detectron2.utils.logger import log_first_n
from PIL import Image

from ..errors import DatasetError
from .augmentation import build_augmentation
from .classes import IGNORE_LABEL, PanopticClasses
from .id_map import (
    VOID,
    Runs,
    find_segments,
    id_to_rgb,
    label_runs,
    read_panoptic_png,
    rgb_to_id,
)
from .images import read_image
from .masks import LabelMapMasks
from .register import get_panoptic_classes

__all__ = ["PanopticFPNDatasetMapper"]

logger = logging.getLogger(__name__)


class PanopticFPNDatasetMapper:
    """Map a dataset dict in Detectron2's panoptic format to the input of Panoptic FPN.

    Instances and the semantic map are both derived from the one id PNG, which is decoded once and
    transformed once. Things have semantic label 0, stuff 1..S; void and crowd segments have the
    semantic label 255 and no instance.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        classes: PanopticClasses | None = None,
    ):
        """Build a mapper from explicit arguments instead of a config.

        Args:
            is_train: whether to add "instances" and "sem_seg".
            augmentations: Detectron2's augmentations, applied in order; those that ask for
                "sem_seg" get the semantic map.
            image_format: as for Detectron2's ``read_image``, for example "BGR".
            classes: needed if ``is_train``.
        """
        if is_train and classes is None:
            raise ValueError("a mapper for training needs classes")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.classes = classes if is_train else None
        mode = "training" if is_train else "inference"
        logger.info(f"Augmentations used in {mode}: {augmentations}")

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Take augmentations and format from ``cfg.INPUT``, classes from DATASETS.TRAIN."""
        return {
            "is_train": is_train,
            "augmentations": build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "classes": get_panoptic_classes(cfg.DATASETS.TRAIN) if is_train else None,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one image.

        Args:
            dataset_dict: file_name, and for training pan_seg_file_name and segments_info.

        Returns:
            The dict's own keys and "image", a uint8 (C, H, W) tensor. For training also
            "sem_seg", int64 (H, W), and "instances" with gt_boxes, gt_classes (int64, 0..T-1) and
            gt_masks (LabelMapMasks, a kind of BitMasks); instances without a pixel in the crop are
            dropped.

        Raises:
            DatasetError: if a file cannot be read or sizes differ.
        """
        dataset_dict = dict(dataset_dict)
        image = self._read_image(dataset_dict)
        if self.classes is None:
            aug_input = T.AugInput(image)
            self.augmentations(aug_input)
            dataset_dict["image"] = _to_tensor(aug_input.image)
            return dataset_dict

        aug_input = _PanopticAugInput(image, *_read_segments(dataset_dict, image, self.classes))
        self.augmentations(aug_input)
        index_map = aug_input.index_map
        runs = label_runs(index_map)
        sem_seg = np.repeat(aug_input.semantic[runs.values].astype(np.int64), runs.lengths)
        dataset_dict["image"] = _to_tensor(aug_input.image)
        dataset_dict["sem_seg"] = torch.from_numpy(sem_seg.reshape(index_map.shape))
        dataset_dict["instances"] = _instances(index_map, runs, aug_input.thing)
        return dataset_dict

    def _read_image(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        size = None  # some of Detectron2's own dicts have none
        if "width" in dataset_dict and "height" in dataset_dict:
            size = dataset_dict["width"], dataset_dict["height"]
        image = read_image(dataset_dict["file_name"], size)
        dataset_dict["height"], dataset_dict["width"] = image.shape[:2]
        if self.image_format == "BGR":  # contiguous, where Detectron2 gives a reversed view
            return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self.image_format == "RGB":
            return image
        return convert_PIL_to_numpy(Image.fromarray(image), self.image_format)


class _PanopticAugInput(T.AugInput):
    """An image and the index map of its segments, transformed together.

    The semantic map is looked up in the index map whenever an augmentation asks for ``sem_seg``.
    """

    def __init__(
        self, image: np.ndarray, index_map: np.ndarray, semantic: np.ndarray, thing: np.ndarray
    ):
        self.image, self.semantic, self.thing = image, semantic, thing
        # Detectron2 resizes uint8 by Pillow, whose nearest neighbor is that of pixel centers, and
        # other types by another rule; more segments than a byte has values take three bytes each.
        self._wide = len(semantic) > 256
        self._encoded = id_to_rgb(index_map) if self._wide else index_map.astype(np.uint8)

    def transform(self, tfm: T.Transform) -> None:
        self.image = tfm.apply_image(self.image)
        self._encoded = tfm.apply_segmentation(self._encoded)

    @property
    def index_map(self) -> np.ndarray:
        """Indices into ``semantic`` and ``thing``, (H, W)."""
        if not self._wide:
            return self._encoded
        return np.minimum(rgb_to_id(self._encoded), len(self.semantic) - 1)

    @property
    def sem_seg(self) -> np.ndarray:
        """The semantic map, uint8 (H, W)."""
        return self.semantic[self.index_map]


def _read_segments(
    dataset_dict: dict[str, Any], image: np.ndarray, classes: PanopticClasses
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the index map (0 void, 1..N segments), semantic labels and thing classes by index.

    Thing classes are -1 for stuff, void and crowd.
    """
    file_name = dataset_dict.get("pan_seg_file_name")
    if file_name is None or "segments_info" not in dataset_dict:
        raise DatasetError(
            f"image {dataset_dict['file_name']} has no pan_seg_file_name and segments_info: "
            "its data set is not registered in the COCO panoptic format"
        )
    size = image.shape[1], image.shape[0]
    ids = read_panoptic_png(file_name, size, dataset_dict["file_name"])
    semantic, thing, index_of_id = [IGNORE_LABEL], [-1], {VOID: 0}
    for segment in dataset_dict["segments_info"]:
        if segment.get("iscrowd", 0):
            index_of_id[segment["id"]] = 0
            continue
        try:
            isthing, class_id = classes.segment_class(segment)
        except DatasetError as error:
            raise DatasetError(f"{file_name}: {error}") from None
        index_of_id[segment["id"]] = len(semantic)
        semantic.append(0 if isthing else class_id)
        thing.append(class_id if isthing else -1)
    # At least one entry more, and one for every byte: padding has a value that no segment has.
    unused = max(1, 256 - len(semantic))
    semantic, thing = semantic + [IGNORE_LABEL] * unused, thing + [-1] * unused
    index_map = _index_map(ids, index_of_id, file_name)
    return index_map, np.array(semantic, np.uint8), np.array(thing, np.int64)


def _instances(index_map: np.ndarray, runs: Runs, thing: np.ndarray) -> Instances:
    """Masks, tight boxes and classes of the things that are left in the index map."""
    segments = find_segments(index_map, runs)
    is_thing = thing[segments.ids] >= 0
    ids, boxes = segments.ids[is_thing], segments.boxes[is_thing]
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    instances = Instances(index_map.shape)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
    instances.gt_classes = torch.from_numpy(thing[ids])
    instances.gt_masks = LabelMapMasks(torch.from_numpy(np.array(index_map)), torch.from_numpy(ids))
    return instances


def _index_map(ids: np.ndarray, index_of_id: dict[int, int], file_name: str) -> np.ndarray:
    """Replace ids by indices, run by run; ids that no segment has become void, reported once."""
    runs = label_runs(ids)
    found, inverse = np.unique(runs.values, return_inverse=True)
    unknown = [i for i in found.tolist() if i not in index_of_id]
    if unknown:
        log_first_n(
            logging.WARNING,
            f"{file_name}: the segment ids {unknown[:5]} are not in the JSON and are taken as "
            "void; there may be more such files",
            key="caller",
        )
    index = np.array([index_of_id.get(i, 0) for i in found.tolist()], np.int32)
    return np.repeat(index[inverse], runs.lengths).reshape(ids.shape)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    if image.ndim == 2:
        image = image[..., None]
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
