import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.data import (
    PanopticClasses,
    PanopticFPNDatasetMapper,
    load_coco_panoptic_json,
)
from panoptic_lovasz.data.augmentation import build_augmentation
from panoptic_lovasz.data.coco_panoptic import read_coco_panoptic_json
from panoptic_lovasz.errors import ConfigError


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    return cfg


@pytest.fixture
def map_shapes(shapes):
    """Map all generated images with the augmentations of a config."""
    file = shapes / "annotations/train.json"
    classes = PanopticClasses.from_categories(read_coco_panoptic_json(file)["categories"])
    dicts = load_coco_panoptic_json(file, shapes / "train", shapes / "panoptic_train")

    def run(cfg):
        np.random.seed(0)  # noqa: NPY002
        mapper = PanopticFPNDatasetMapper(
            True,
            augmentations=build_augmentation(cfg, True),
            image_format=cfg.INPUT.FORMAT,
            classes=classes,
        )
        return [mapper(d) for d in dicts]

    return run


def kinds(augmentations):
    return [type(a).__name__ for a in augmentations]


def test_by_default_they_are_detectron2s(cfg):
    assert kinds(build_augmentation(cfg, True)) == ["ResizeShortestEdge", "RandomFlip"]
    assert kinds(build_augmentation(cfg, False)) == ["ResizeShortestEdge"]
    cfg.INPUT.RANDOM_FLIP = "none"
    assert kinds(build_augmentation(cfg, True)) == ["ResizeShortestEdge"]


def test_inference_is_never_cropped_jittered_or_colored(cfg):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.COLOR_AUG_SSD = True
    assert kinds(build_augmentation(cfg, False)) == ["ResizeShortestEdge"]


def test_a_crop_comes_first(cfg, map_shapes):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [40, 60]
    assert kinds(build_augmentation(cfg, True)) == [
        "RandomCrop_CategoryAreaConstraint",
        "ResizeShortestEdge",
        "RandomFlip",
    ]
    assert all(d["image"].shape == (3, 64, 96) for d in map_shapes(cfg))


def test_a_crop_may_also_come_after_the_resize(cfg, map_shapes):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.AFTER_RESIZE = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [40, 60]
    cfg.INPUT.MIN_SIZE_TRAIN = (200,)
    assert all(d["image"].shape == (3, 40, 60) for d in map_shapes(cfg))


def test_a_crop_can_avoid_to_be_filled_by_one_class(cfg, map_shapes):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [40, 40]
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)

    def worst_share():
        shares = []
        for d in map_shapes(cfg):
            labels, counts = d["sem_seg"].unique(return_counts=True)
            counts = counts[labels != 255]
            shares.append((counts.max() / counts.sum()).item())
        return max(shares)

    assert worst_share() > 0.65
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.65
    assert worst_share() <= 0.65


def test_large_scale_jitter_gives_squares_padded_with_void(cfg, map_shapes):
    cfg.INPUT.LSJ.ENABLED = True
    cfg.INPUT.LSJ.IMAGE_SIZE = 80
    cfg.INPUT.LSJ.MIN_SCALE, cfg.INPUT.LSJ.MAX_SCALE = 0.5, 0.5
    assert kinds(build_augmentation(cfg, True)) == ["RandomFlip", "ResizeScale", "FixedSizeCrop"]
    for d in map_shapes(cfg):
        assert d["image"].shape == (3, 80, 80)
        assert (d["sem_seg"][40:] == 255).all()
        assert (d["sem_seg"][:, 40:] == 255).all()
        assert (d["sem_seg"][:40, :40] != 255).any()
        assert d["instances"].gt_boxes.tensor.max() <= 40


def test_jitter_and_crop_exclude_each_other(cfg):
    cfg.INPUT.LSJ.ENABLED = cfg.INPUT.CROP.ENABLED = True
    with pytest.raises(ConfigError, match=r"LSJ.*CROP"):
        build_augmentation(cfg, True)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_colors_change_and_labels_do_not(cfg, map_shapes, image_format):
    cfg.INPUT.FORMAT = image_format
    cfg.INPUT.RANDOM_FLIP = "none"
    plain = map_shapes(cfg)
    cfg.INPUT.COLOR_AUG_SSD = True
    assert isinstance(build_augmentation(cfg, True)[-1], T.Transform)
    colored = map_shapes(cfg)
    pairs = list(zip(plain, colored, strict=True))
    assert sum((a["image"] != b["image"]).any().item() for a, b in pairs) > len(pairs) / 2
    assert all((a["sem_seg"] == b["sem_seg"]).all() for a, b in pairs)


def test_colors_need_images_in_bgr_or_rgb(cfg):
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ConfigError, match=r"INPUT\.FORMAT is L"):
        build_augmentation(cfg, True)
