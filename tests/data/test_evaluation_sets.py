"""What is wrong with the data to evaluate on is told before a training, not after it."""

import copy
import json

import pytest
from detectron2.config import get_cfg

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.data import register_coco_panoptic
from panoptic_lovasz.data.evaluation_sets import check_evaluation_sets
from panoptic_lovasz.errors import ConfigError, DatasetError


@pytest.fixture
def check(tiny_set):
    """Register a set to train with and a copy to evaluate on, changed, and check them."""

    def check(change=lambda content: None, test=("checked_val",)):
        content = copy.deepcopy(tiny_set.content)
        change(content)
        val = tiny_set.root / "val.json"
        val.write_text(json.dumps(content))
        register_coco_panoptic("checked_train", *tiny_set.paths)
        register_coco_panoptic("checked_val", val, tiny_set.images, tiny_set.panoptic)
        cfg = get_cfg()
        add_panoptic_lovasz_config(cfg)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("checked_train",), test
        check_evaluation_sets(cfg)

    return check


def test_data_sets_that_belong_together_and_none_at_all_are_fine(check):
    check()
    check(test=())


def test_a_name_that_is_not_registered_is_told_with_those_that_are(check):
    with pytest.raises(DatasetError, match=r"DATASETS\.TEST: 'checked_vall' is not registered; .*"):
        check(test=("checked_vall",))


def test_a_json_that_is_not_there_is_told(check, tiny_set):
    missing = tiny_set.root / "missing.json"
    register_coco_panoptic("checked_missing", missing, tiny_set.images, tiny_set.panoptic)
    with pytest.raises(DatasetError, match=r"checked_missing.*missing\.json does not exist"):
        check(test=("checked_missing",))


def test_a_faulty_annotation_or_a_missing_image_is_told(check):
    def spoil(content):
        content["annotations"][1]["segments_info"][0]["category_id"] = 77

    with pytest.raises(DatasetError, match=r"val\.json: annotations\[1\].*category_id 77"):
        check(spoil)
    with pytest.raises(DatasetError, match=r"1 of 2 image files are missing.*gone\.png"):
        check(lambda content: content["images"][1].update(file_name="gone.png"))


def test_classes_of_the_same_number_but_other_names_or_order_are_told(check):
    def swap(content):
        cat, dog = content["categories"][1:3]
        cat["name"], dog["name"] = "dog", "cat"

    with pytest.raises(ConfigError, match="'checked_train' and 'checked_val' differ in thing_cla"):
        check(swap)
