import logging

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks
from detectron2.utils import logger as detectron2_logger
from PIL import Image

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.data import (
    PanopticClasses,
    PanopticFPNDatasetMapper,
    load_coco_panoptic_json,
    register_coco_panoptic,
)
from panoptic_lovasz.data.coco_panoptic import read_coco_panoptic_json
from panoptic_lovasz.data.id_map import read_panoptic_png, write_panoptic_png
from panoptic_lovasz.errors import DatasetError


def mapper_of(classes, *augmentations, **kwargs):
    return PanopticFPNDatasetMapper(
        True, augmentations=list(augmentations), image_format="BGR", classes=classes, **kwargs
    )


@pytest.fixture
def tiny(tiny_set, tiny_classes):
    """Both dicts of the tiny set and a mapper without augmentation."""
    return (*load_coco_panoptic_json(*tiny_set.paths), mapper_of(tiny_classes))


def expected_targets(ids, segments_info):
    """Semantic map and (class, mask) of every instance, segment by segment: slow and obvious."""
    sem_seg = np.full(ids.shape, 255)
    instances = []
    for s in segments_info:
        mask = ids == s["id"]
        if s["iscrowd"] or not mask.any():
            continue
        sem_seg[mask] = 0 if s["isthing"] else s["category_id"]
        if s["isthing"]:
            instances.append((s["category_id"], mask))
    return sem_seg, instances


def assert_targets(mapped, ids, segments_info):
    sem_seg, expected = expected_targets(ids, segments_info)
    assert mapped["sem_seg"].dtype == torch.int64
    np.testing.assert_array_equal(mapped["sem_seg"], sem_seg)
    instances = mapped["instances"]
    assert instances.image_size == ids.shape
    assert isinstance(instances.gt_masks, BitMasks)
    found = zip(instances.gt_classes.tolist(), instances.gt_masks.tensor.numpy(), strict=True)
    key = lambda pair: (pair[0], pair[1].tobytes())  # noqa: E731
    for (a, a_mask), (b, b_mask) in zip(
        sorted(found, key=key), sorted(expected, key=key), strict=True
    ):
        assert a == b
        np.testing.assert_array_equal(a_mask, b_mask)
    assert torch.equal(
        instances.gt_boxes.tensor, BitMasks(instances.gt_masks.tensor).get_bounding_boxes().tensor
    )


def test_instances_and_semantic_map_of_a_small_image(tiny):
    mapped = tiny[2](tiny[0])
    assert mapped["sem_seg"].tolist() == (
        [[1] * 8] * 2 + [[1, 1, 0, 0, 0, 1, 255, 255]] * 2 + [[2] * 8] * 2
    )
    assert mapped["instances"].gt_classes.tolist() == [0]
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[2, 2, 5, 4]]
    assert mapped["image"].dtype == torch.uint8
    assert mapped["image"].shape == (3, 6, 8)
    assert mapped["image_id"] == 11


def test_a_crowd_is_ignored_in_both_targets(tiny):
    mapped = tiny[2](tiny[1])
    assert mapped["instances"].gt_classes.tolist() == [1]
    assert (mapped["sem_seg"][3:, 4:] == 255).all()


def test_the_dict_that_is_mapped_stays_as_it_is(tiny):
    before = str(tiny[0])
    tiny[2](tiny[0])
    assert str(tiny[0]) == before


def test_targets_of_the_coco_sample_are_those_of_its_segments(shared_data):
    root = shared_data / "coco_panoptic_sample"
    file = root / "panoptic_examples.json"
    classes = PanopticClasses.from_categories(read_coco_panoptic_json(file)["categories"])
    for d in load_coco_panoptic_json(file, root / "input_images", root / "panoptic_examples"):
        mapped = mapper_of(classes)(d)
        assert_targets(mapped, read_panoptic_png(d["pan_seg_file_name"]), d["segments_info"])
        assert len(mapped["instances"]) > 10


AUGMENTATIONS = {
    "flip": [T.RandomFlip(1.0)],
    "vertical flip": [T.RandomFlip(1.0, horizontal=False, vertical=True)],
    "resize": [T.Resize((61, 83))],
    "crop": [T.RandomCrop("absolute", (40, 30))],
    "crop, resize, flip": [
        T.RandomCrop("relative_range", (0.4, 0.4)),
        T.ResizeShortestEdge((100, 150)),
        T.RandomFlip(1.0),
    ],
    "jitter": [T.ResizeScale(0.3, 1.7, 96, 96), T.FixedSizeCrop((96, 96))],
}


@pytest.mark.parametrize("augmentations", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_targets_move_as_the_id_png_would(shapes, augmentations):
    file = shapes / "annotations/train.json"
    classes = PanopticClasses.from_categories(read_coco_panoptic_json(file)["categories"])
    dicts = load_coco_panoptic_json(file, shapes / "train", shapes / "panoptic_train")
    for seed, d in enumerate(dicts):
        np.random.seed(seed)  # noqa: NPY002
        mapped = mapper_of(classes, *augmentations)(d)
        np.random.seed(seed)  # noqa: NPY002
        png = np.asarray(Image.open(d["pan_seg_file_name"]))
        aug_input = T.AugInput(np.asarray(Image.open(d["file_name"])), sem_seg=png)
        T.AugmentationList(augmentations)(aug_input)
        ids = (aug_input.sem_seg * np.array([1, 256, 65536])).sum(axis=-1)
        assert_targets(mapped, ids, d["segments_info"])
        image = aug_input.image[:, :, ::-1].transpose(2, 0, 1)
        np.testing.assert_array_equal(mapped["image"], image)


def test_instances_that_the_crop_leaves_nothing_of_are_dropped(tiny, tiny_classes):
    mapped = mapper_of(tiny_classes, T.CropTransform(0, 4, 8, 2))(tiny[0])
    assert (mapped["sem_seg"] == 2).all()
    assert len(mapped["instances"]) == 0
    assert mapped["instances"].gt_masks.tensor.shape == (0, 2, 8)
    assert mapped["instances"].gt_boxes.tensor.shape == (0, 4)


def test_padding_is_void_whatever_value_it_has(tiny, tiny_classes):
    for value in (0, 255):
        pad = T.PadTransform(0, 0, 3, 2, 8, 6, 128, value)
        mapped = mapper_of(tiny_classes, pad)(tiny[0])
        assert mapped["sem_seg"].shape == (8, 11)
        assert (mapped["sem_seg"][6:] == 255).all()
        assert (mapped["sem_seg"][:, 8:] == 255).all()
        assert len(mapped["instances"]) == 1


@pytest.mark.parametrize("pad_value", [0, 255])
@pytest.mark.parametrize("count", [253, 254, 255, 300, 900])
def test_any_number_of_segments_is_fine(tmp_path, tiny_classes, count, pad_value):
    ids = np.arange(1, 901).reshape(30, 30)
    ids[ids > count] = 0
    write_panoptic_png(tmp_path / "ids.png", ids)
    Image.new("RGB", (30, 30)).save(tmp_path / "image.png")
    d = {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "segments_info": [
            {"id": n, "category_id": n % 2, "isthing": True, "iscrowd": 0}
            for n in range(1, count + 1)
        ],
    }
    pad = T.PadTransform(0, 0, 2, 2, 30, 30, 128, pad_value)
    mapped = mapper_of(tiny_classes, T.RandomFlip(1.0), pad)(d)
    assert len(mapped["instances"]) == count
    assert_targets(mapped, np.pad(ids[:, ::-1], ((0, 2), (0, 2))), d["segments_info"])


def test_augmentations_that_ask_for_it_get_the_semantic_map_of_the_moment(tiny, tiny_classes):
    seen = []

    class Look(T.Augmentation):
        def get_transform(self, image, sem_seg):
            seen.append(sem_seg.copy())
            return T.NoOpTransform()

    mapper_of(tiny_classes, Look(), T.RandomFlip(1.0), Look())(tiny[0])
    np.testing.assert_array_equal(seen[0], tiny[2](tiny[0])["sem_seg"])
    np.testing.assert_array_equal(seen[1], seen[0][:, ::-1])


def test_ids_that_the_json_lacks_are_void_and_reported_once(tiny_set, tiny_classes, caplog):
    for annotation in tiny_set.content["annotations"]:
        del annotation["segments_info"][0]
    tiny_set.save()
    detectron2_logger._LOG_COUNTER.clear()
    dicts = load_coco_panoptic_json(*tiny_set.paths)
    with caplog.at_level(logging.WARNING):
        mapped = [mapper_of(tiny_classes)(d) for d in dicts]
    assert (mapped[0]["sem_seg"][:2] == 255).all()
    assert (mapped[1]["sem_seg"][:3] == 255).all()
    assert caplog.text.count("are not in the JSON") == 1
    assert "a.png: the segment ids [5]" in caplog.text


def test_segments_without_a_pixel_are_dropped(tiny):
    phantom = {"id": 123, "category_id": 1, "isthing": True, "iscrowd": 0}
    first = {**tiny[0], "segments_info": [*tiny[0]["segments_info"], phantom]}
    assert tiny[2](first)["instances"].gt_classes.tolist() == [0]


def test_for_inference_there_is_only_the_image_and_the_dicts_own_keys(tiny):
    mapper = PanopticFPNDatasetMapper(False, augmentations=[T.Resize((12, 16))], image_format="RGB")
    mapped = mapper(tiny[0])
    assert mapped.keys() == {*tiny[0].keys(), "image"}
    assert mapped["image"].shape == (3, 12, 16)
    assert (mapped["height"], mapped["width"]) == (6, 8)
    mapper({"file_name": tiny[0]["file_name"]})  # no annotation is needed


def test_from_a_config_the_classes_are_those_of_the_training_set(tiny_set, tiny_classes):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    register_coco_panoptic("tiny", *tiny_set.paths)
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.INPUT.MIN_SIZE_TRAIN = (12,)
    mapper = PanopticFPNDatasetMapper(cfg, True)
    assert mapper.classes == tiny_classes
    assert mapper(DatasetCatalog.get("tiny")[0])["image"].shape == (3, 12, 16)
    assert PanopticFPNDatasetMapper(cfg, False).is_train is False


def test_dicts_of_detectron2s_cityscapes_are_mapped(tmp_path):
    """They have train ids for both kinds, no isthing, no size, and iscrowd."""
    classes = PanopticClasses.from_metadata(MetadataCatalog.get("cityscapes_fine_panoptic_val"))
    ids = np.array([[7, 7, 26001, 26002], [7, 7, 26001, 24000]])
    write_panoptic_png(tmp_path / "ids.png", ids)
    Image.new("RGB", (4, 2)).save(tmp_path / "image.png")
    mapped = mapper_of(classes)(
        {
            "file_name": str(tmp_path / "image.png"),
            "image_id": "aachen_000000_000019",
            "pan_seg_file_name": str(tmp_path / "ids.png"),
            "segments_info": [
                {"id": 7, "category_id": 0, "iscrowd": 0},
                {"id": 26001, "category_id": 13, "iscrowd": 0},
                {"id": 26002, "category_id": 13, "iscrowd": 0},
                {"id": 24000, "category_id": 11, "iscrowd": 1},
            ],
        }
    )
    assert mapped["sem_seg"].tolist() == [[1, 1, 0, 0], [1, 1, 0, 255]]
    assert mapped["instances"].gt_classes.tolist() == [2, 2]  # car
    assert (mapped["height"], mapped["width"]) == (2, 4)


def test_an_image_turned_by_exif_is_read_upright(tiny_set, tiny_classes):
    turned = Image.new("RGB", (6, 8), "red")
    exif = Image.Exif()
    exif[274] = 6
    turned.save(tiny_set.images / "a.jpg", exif=exif)
    first = load_coco_panoptic_json(*tiny_set.paths)[0]
    assert mapper_of(tiny_classes)(first)["image"].shape == (3, 6, 8)


def test_a_png_made_for_an_image_before_its_exif_turn_is_an_error_that_says_so(
    tiny_set, tiny_classes
):
    turned = Image.new("RGB", (8, 6), "red")
    exif = Image.Exif()
    exif[274] = 6
    turned.save(tiny_set.images / "a.jpg", exif=exif)
    first = load_coco_panoptic_json(*tiny_set.paths)[0]
    with pytest.raises(
        DatasetError, match=r"a\.jpg: it is 6 x 8 .* says 8 x 6 .*EXIF orientation 6"
    ):
        mapper_of(tiny_classes)(first)
    del first["height"], first["width"]
    with pytest.raises(DatasetError, match=r"a\.png is 8 x 6 .*a\.jpg is 6 x 8 .*EXIF"):
        mapper_of(tiny_classes)(first)


def test_a_png_of_another_size_is_an_error_that_names_both_files_and_sizes(tiny_set, tiny):
    write_panoptic_png(tiny_set.panoptic / "a.png", np.ones((5, 7), int))
    with pytest.raises(DatasetError, match=r"a\.png is 7 x 5 pixels, .*a\.jpg is 8 x 6"):
        tiny[2](tiny[0])


def test_an_image_that_cannot_be_read_is_an_error_that_names_it(tiny_set, tiny):
    image = tiny_set.images / "a.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"image .*a\.jpg cannot be read"):
        tiny[2](tiny[0])
    image.unlink()
    with pytest.raises(DatasetError, match=r"image .*a\.jpg does not exist"):
        tiny[2](tiny[0])


def test_a_category_that_the_classes_lack_is_an_error_that_names_file_and_segment(tiny):
    wrong = {"id": 9, "category_id": 5, "isthing": True}
    first = {**tiny[0], "segments_info": [wrong]}
    with pytest.raises(DatasetError, match=r"a\.png: segment 9: thing category_id 5"):
        tiny[2](first)


def test_a_data_set_of_another_format_is_an_error(tiny):
    with pytest.raises(DatasetError, match=r"a\.jpg has no pan_seg_file_name and segments_info"):
        tiny[2]({"file_name": tiny[0]["file_name"]})


def test_training_needs_classes():
    with pytest.raises(ValueError, match="needs classes"):
        mapper_of(None)


@pytest.mark.parametrize(
    ("tfm", "size"), [(T.Resize((12, 16)), (12, 16)), (T.RotationTransform(6, 8, 180), (6, 8))]
)
def test_a_grayscale_image_has_one_channel_though_some_augmentations_drop_it(tiny, tfm, size):
    mapper = PanopticFPNDatasetMapper(False, augmentations=[tfm], image_format="L")
    image = mapper(tiny[0])["image"]
    assert (image.shape, image.dtype) == ((1, *size), torch.uint8)
