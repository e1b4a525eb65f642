"""From a dataset dict to what the model trains on: image, instances and semantic map."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.logger import log_first_n

from ..errors import DatasetError
from .augmentation import build_augmentation
from .classes import IGNORE_LABEL, PanopticClasses
from .id_map import (
    VOID,
    find_segments,
    id_to_rgb,
    label_runs,
    read_panoptic_png,
    rgb_to_id,
)
from .register import get_panoptic_classes

__all__ = ["PanopticFPNDatasetMapper"]

logger = logging.getLogger(__name__)

_EXIF_ORIENTATION = 274


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
        self.classes = classes
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
            gt_masks (BitMasks); instances that the crop leaves no pixel of are dropped.

        Raises:
            DatasetError: if a file cannot be read or sizes differ.
        """
        dataset_dict = dict(dataset_dict)
        image = self._read_image(dataset_dict)
        if not self.is_train:
            aug_input = T.AugInput(image)
            self.augmentations(aug_input)
            dataset_dict["image"] = _to_tensor(aug_input.image)
            return dataset_dict

        aug_input = _PanopticAugInput(image, *self._read_segments(dataset_dict, image))
        self.augmentations(aug_input)
        dataset_dict["image"] = _to_tensor(aug_input.image)
        dataset_dict["sem_seg"] = torch.from_numpy(aug_input.sem_seg.astype(np.int64))
        dataset_dict["instances"] = aug_input.instances()
        return dataset_dict

    def _read_image(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        file_name = dataset_dict["file_name"]
        try:
            image = detection_utils.read_image(file_name, format=self.image_format)
        except FileNotFoundError:
            raise DatasetError(f"image {file_name} does not exist") from None
        except Exception as error:  # Pillow raises errors of many types for a damaged file
            raise DatasetError(f"image {file_name} cannot be read: {error}") from error
        height, width = image.shape[:2]
        expected = (
            dataset_dict.setdefault("width", width),
            dataset_dict.setdefault("height", height),
        )
        if expected != (width, height):
            raise DatasetError(
                f"image {file_name} is {width} x {height} pixels, but its data set says "
                f"{expected[0]} x {expected[1]} (width x height){_exif_hint(file_name)}"
            )
        return image

    def _read_segments(
        self, dataset_dict: dict[str, Any], image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the index map (0 void, 1..N segments), semantic labels and thing classes by index.

        Thing classes are -1 for stuff, void and crowd.
        """
        file_name = dataset_dict.get("pan_seg_file_name")
        if file_name is None:
            raise DatasetError(
                f"image {dataset_dict['file_name']} has no pan_seg_file_name: its data set is not "
                "registered in the COCO panoptic format"
            )
        ids = read_panoptic_png(file_name)
        if ids.shape != image.shape[:2]:
            raise DatasetError(
                f"panoptic PNG {file_name} is {ids.shape[1]} x {ids.shape[0]} pixels, but its "
                f"image {dataset_dict['file_name']} is {image.shape[1]} x {image.shape[0]} "
                f"(width x height){_exif_hint(dataset_dict['file_name'])}"
            )
        semantic, thing, index_of_id = [IGNORE_LABEL], [-1], {VOID: 0}
        for segment in dataset_dict["segments_info"]:
            if segment.get("iscrowd", 0):
                index_of_id[segment["id"]] = 0
                continue
            isthing, class_id = self.classes.segment_class(segment)
            index_of_id[segment["id"]] = len(semantic)
            semantic.append(0 if isthing else class_id)
            thing.append(class_id if isthing else -1)
        semantic.append(IGNORE_LABEL)  # for values that are no segment's, see _PanopticAugInput
        thing.append(-1)
        index_map = _index_map(ids, index_of_id, file_name)
        return index_map, np.array(semantic, np.uint8), np.array(thing, np.int64)


class _PanopticAugInput(T.AugInput):
    """An image and the index map of its segments, transformed together.

    Both targets are looked up in the index map, at any point: ``sem_seg`` is there for
    augmentations that ask for it.
    """

    def __init__(self, image: np.ndarray, index_map: np.ndarray, semantic: np.ndarray, thing):
        self.image = image
        # Pillow's nearest resize, which Detectron2 uses for uint8, samples pixel centres; a map of
        # more than 254 segments has three bytes per pixel for it.
        self._wide = len(semantic) > 256
        self._encoded = id_to_rgb(index_map) if self._wide else index_map.astype(np.uint8)
        self._semantic, self._thing = semantic, thing

    def transform(self, tfm: T.Transform) -> None:
        self.image = tfm.apply_image(self.image)
        self._encoded = tfm.apply_segmentation(self._encoded)

    @property
    def index_map(self) -> np.ndarray:
        index_map = rgb_to_id(self._encoded) if self._wide else self._encoded
        return np.minimum(index_map, len(self._semantic) - 1)  # padding may be 255

    @property
    def sem_seg(self) -> np.ndarray:
        """The semantic map, uint8 (H, W)."""
        return self._semantic[self.index_map]

    def instances(self) -> Instances:
        index_map = self.index_map
        segments = find_segments(index_map)
        is_thing = self._thing[segments.ids] >= 0
        ids, boxes = segments.ids[is_thing], segments.boxes[is_thing]
        masks = np.zeros((len(ids), *index_map.shape), dtype=bool)
        for mask, segment_id, (x, y, w, h) in zip(masks, ids, boxes, strict=True):
            window = np.s_[y : y + h, x : x + w]
            np.equal(index_map[window], segment_id, out=mask[window])
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        instances = Instances(index_map.shape)
        instances.gt_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
        instances.gt_classes = torch.from_numpy(self._thing[ids])
        instances.gt_masks = BitMasks(torch.from_numpy(masks))
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
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _exif_hint(file_name: str) -> str:
    from PIL import Image

    with Image.open(file_name) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation == 1:
        return ""
    return (
        f"; the image is turned by its EXIF orientation {orientation}: save it upright, without "
        "the tag, or turn the annotation"
    )
