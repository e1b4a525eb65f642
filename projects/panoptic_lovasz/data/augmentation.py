"""Augmentations that ``cfg.INPUT`` asks for; every one is Detectron2's own."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from ..errors import ConfigError
from .classes import IGNORE_LABEL

__all__ = ["build_augmentation"]


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation | T.Transform]:
    """List the augmentations in the order in which they are applied.

    For training: crop (INPUT.CROP), resize and flip as Detectron2 does, or resize, crop and flip
    with INPUT.CROP.AFTER_RESIZE; with INPUT.LSJ.ENABLED flip, large-scale jitter and a crop of
    fixed size instead. Colors come last.
    """
    if not is_train:
        return detection_utils.build_augmentation(cfg, is_train)
    lsj = cfg.INPUT.LSJ
    if lsj.ENABLED and cfg.INPUT.CROP.ENABLED:
        raise ConfigError("INPUT.LSJ.ENABLED and INPUT.CROP.ENABLED exclude each other")
    augmentations = detection_utils.build_augmentation(cfg, is_train)
    if lsj.ENABLED:
        size = lsj.IMAGE_SIZE
        augmentations = augmentations[1:]  # its own resize takes the place of Detectron2's
        augmentations += [
            T.ResizeScale(lsj.MIN_SCALE, lsj.MAX_SCALE, size, size),
            T.FixedSizeCrop((size, size)),
        ]
    elif cfg.INPUT.CROP.ENABLED:
        crop = T.RandomCrop_CategoryAreaConstraint(
            cfg.INPUT.CROP.TYPE,
            cfg.INPUT.CROP.SIZE,
            cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
            IGNORE_LABEL,
        )
        augmentations.insert(1 if cfg.INPUT.CROP.AFTER_RESIZE else 0, crop)
    if cfg.INPUT.COLOR_AUG_SSD:
        from detectron2.projects.point_rend import ColorAugSSDTransform

        if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
            raise ConfigError(
                f"INPUT.COLOR_AUG_SSD needs BGR or RGB images; INPUT.FORMAT is {cfg.INPUT.FORMAT}"
            )
        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    return augmentations
