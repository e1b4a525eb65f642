import os

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_panoptic as detectron2_register

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.data import (
    PanopticClasses,
    build_panoptic_train_loader,
    get_panoptic_classes,
    get_panoptic_dataset_dicts,
    load_coco_panoptic_json,
    register_coco_panoptic,
    register_from_config,
    set_class_counts,
)
from panoptic_lovasz.errors import ConfigError, DatasetError
from panoptic_lovasz.evaluation.ground_truth import PanopticGroundTruth


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    return cfg


def entry(tiny_set, name="tiny"):
    json, images, panoptic = map(str, tiny_set.paths)
    return {"name": name, "json": json, "images": images, "panoptic": panoptic}


def test_a_registered_data_set_has_detectron2s_dicts_and_metadata(tiny_set, tiny_classes):
    register_coco_panoptic("tiny", *tiny_set.paths)
    assert DatasetCatalog.get("tiny") == load_coco_panoptic_json(*tiny_set.paths)
    metadata = MetadataCatalog.get("tiny")
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.stuff_classes == ["things", "sky", "grass"]
    assert metadata.evaluator_type == "panoptic_lovasz"
    assert metadata.ignore_label == 255
    assert metadata.panoptic_json == str(tiny_set.json)
    assert metadata.image_root == str(tiny_set.images)
    assert metadata.panoptic_root == str(tiny_set.panoptic)
    assert PanopticClasses.from_metadata(metadata) == tiny_classes


def test_relative_paths_start_at_the_datasets_folder(tiny_set, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_set.root))
    register_coco_panoptic("tiny", "panoptic.json", "images", "panoptic")
    assert len(DatasetCatalog.get("tiny")) == 2


def test_the_same_data_set_may_be_registered_again_but_not_another(cfg, tiny_set):
    cfg.DATASETS.PANOPTIC = [entry(tiny_set)]
    register_from_config(cfg)
    register_from_config(cfg)
    cfg.DATASETS.PANOPTIC = [{**entry(tiny_set), "images": "/elsewhere"}]
    with pytest.raises(ConfigError, match=r"'tiny' is taken.*/elsewhere"):
        register_from_config(cfg)


def test_names_of_detectron2s_own_data_sets_are_taken(tiny_set):
    with pytest.raises(ConfigError, match="'coco_2017_val' is taken"):
        register_coco_panoptic("coco_2017_val", *tiny_set.paths)


def test_an_entry_with_splits_stands_for_one_data_set_each(cfg, shapes):
    cfg.DATASETS.PANOPTIC = [
        {
            "name": "s_{split}",
            "json": f"{shapes}/annotations/{{split}}.json",
            "images": f"{shapes}/{{split}}",
            "panoptic": f"{shapes}/panoptic_{{split}}",
            "splits": ["train", "val"],
        }
    ]
    register_from_config(cfg)
    assert len(DatasetCatalog.get("s_train")) == 12
    assert len(DatasetCatalog.get("s_val")) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "x"}, r"PANOPTIC\[0\] has the fields .*'image'.*expected"),
        ({"name": ""}, "name is '', expected a non-empty string"),
        ({"json": 3}, "json is 3, expected a non-empty string"),
        ({"splits": "train"}, "splits is 'train', expected a list"),
        ({"splits": []}, r"splits is \[\], expected a list"),
        ({"splits": ["a", "b"]}, r"the name 'tiny' needs \{split\}"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_it(cfg, tiny_set, change, message):
    cfg.DATASETS.PANOPTIC = [{**entry(tiny_set), **change}]
    with pytest.raises(ConfigError, match=message):
        register_from_config(cfg)


def test_an_entry_without_a_field_or_of_another_type_is_an_error(cfg, tiny_set):
    cfg.DATASETS.PANOPTIC = ["tiny"]
    with pytest.raises(ConfigError, match=r"PANOPTIC\[0\] is 'tiny', expected the fields"):
        register_from_config(cfg)
    cfg.DATASETS.PANOPTIC = [entry(tiny_set)]
    del cfg.DATASETS.PANOPTIC[0]["panoptic"]
    with pytest.raises(ConfigError, match=r"PANOPTIC\[0\] has the fields .* expected .*panoptic"):
        register_from_config(cfg)


def test_without_its_json_a_data_set_has_a_name_and_an_error_when_it_is_loaded(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/no/such/folder")
    register_coco_panoptic("absent", "a.json", "images", "panoptic")
    assert MetadataCatalog.get("absent").evaluator_type == "panoptic_lovasz"
    with pytest.raises(
        DatasetError, match=r"/no/such/folder/a\.json does not exist .*\$DETECTRON2_DATASETS"
    ):
        DatasetCatalog.get("absent")


def test_a_data_set_whose_json_came_later_gets_its_classes_when_registered_again(tiny_set):
    os.rename(tiny_set.json, tiny_set.root / "later")
    register_coco_panoptic("tiny", *tiny_set.paths)
    os.rename(tiny_set.root / "later", tiny_set.json)
    register_coco_panoptic("tiny", *tiny_set.paths)
    assert MetadataCatalog.get("tiny").thing_classes == ["dog", "cat"]


def test_class_counts_come_from_the_data(cfg, tiny_set):
    register_coco_panoptic("tiny", *tiny_set.paths)
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.DATASETS.TEST = ("tiny",)
    set_class_counts(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    set_class_counts(cfg)  # what was set agrees


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cityscapes_fine_panoptic_train", (8, 12)),
        ("coco_2017_train_panoptic", (80, 54)),
        ("coco_2017_train_panoptic_separated", (80, 54)),
        ("coco_2017_train", (80, 54)),  # no panoptic data set: Detectron2's defaults stay
        ("cityscapes_fine_sem_seg_train", (80, 54)),
        ("never_registered", (80, 54)),
    ],
)
def test_class_counts_of_detectron2s_own_data_sets(cfg, name, counts):
    cfg.DATASETS.TRAIN = (name,)
    set_class_counts(cfg)
    assert counts == (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)


def test_a_count_that_contradicts_the_data_is_an_error_with_both_numbers(cfg, tiny_set):
    register_coco_panoptic("tiny", *tiny_set.paths)
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    with pytest.raises(ConfigError, match=r"ROI_HEADS.NUM_CLASSES is 7, but .*'tiny' has 2 thing"):
        set_class_counts(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    with pytest.raises(ConfigError, match=r"SEM_SEG_HEAD.NUM_CLASSES is 54, but .* has 3 semantic"):
        set_class_counts(cfg, given=["MODEL.SEM_SEG_HEAD.NUM_CLASSES"])


def test_data_sets_to_train_and_test_on_must_have_the_same_counts(cfg, tiny_set):
    register_coco_panoptic("tiny", *tiny_set.paths)
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.DATASETS.TEST = ("cityscapes_fine_panoptic_val",)
    with pytest.raises(
        ConfigError, match=r"'tiny' and 'cityscapes_fine_panoptic_val' have 2 and 8"
    ):
        set_class_counts(cfg)


def test_a_data_set_without_things_is_an_error(cfg, tiny_set):
    tiny_set.content["categories"] = [{"id": 12, "name": "sky", "isthing": 0}]
    tiny_set.save()
    register_coco_panoptic("tiny", *tiny_set.paths)
    cfg.DATASETS.TRAIN = ("tiny",)
    with pytest.raises(DatasetError, match="'tiny' has no thing category"):
        set_class_counts(cfg)


def test_without_the_data_both_counts_must_be_given(cfg):
    register_coco_panoptic("absent", "/nowhere/a.json", "/nowhere", "/nowhere")
    cfg.DATASETS.TEST = ("absent",)
    with pytest.raises(DatasetError, match=r"/nowhere/a\.json does not exist.*NUM_CLASSES"):
        set_class_counts(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 6
    set_class_counts(cfg)
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (4, 6)


def test_dicts_of_several_data_sets_are_joined(tiny_set):
    for name in ("one", "two"):
        register_coco_panoptic(name, *tiny_set.paths)
    assert [d["image_id"] for d in get_panoptic_dataset_dicts(["one", "two"])] == [11, 12, 11, 12]


def test_images_without_a_thing_can_be_left_out_and_a_crowd_is_not_enough(tiny_set):
    tiny_set.content["annotations"][1]["segments_info"][1]["iscrowd"] = 1
    tiny_set.save()
    register_coco_panoptic("tiny", *tiny_set.paths)
    assert [d["image_id"] for d in get_panoptic_dataset_dicts("tiny", filter_empty=True)] == [11]
    tiny_set.content["annotations"][0]["segments_info"].pop(1)
    tiny_set.save()
    with pytest.raises(DatasetError, match="tiny: no image has an instance"):
        get_panoptic_dataset_dicts("tiny", filter_empty=True)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(tiny_set):
    register_coco_panoptic("tiny", *tiny_set.paths)
    with pytest.raises(DatasetError, match=r"'tyni' is not registered.*tiny"):
        get_panoptic_dataset_dicts("tyni")
    with pytest.raises(DatasetError, match="'tyni' is not registered"):
        get_panoptic_classes(["tyni"])
    with pytest.raises(ConfigError, match="TRAIN is empty"):
        get_panoptic_dataset_dicts([])


def test_an_error_of_detectron2s_own_loaders_names_the_data_set():
    with pytest.raises(DatasetError, match=r"'cityscapes_fine_panoptic_val' cannot be loaded: \w+"):
        get_panoptic_dataset_dicts("cityscapes_fine_panoptic_val")


def test_a_data_set_of_another_format_is_an_error_that_says_which_to_take():
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    DatasetCatalog.register("street_separated", lambda: [{"file_name": "a", "annotations": []}])
    MetadataCatalog.get("street_separated").set(thing_classes=metadata.thing_classes)
    with pytest.raises(DatasetError, match=r"format; panoptic_lovasz\.register_coco_panoptic"):
        get_panoptic_dataset_dicts("street_separated", filter_empty=True)
    DatasetCatalog.register("street", list)
    with pytest.raises(DatasetError, match="not in the panoptic format; 'street' is"):
        get_panoptic_dataset_dicts("street_separated", filter_empty=True)


def test_data_sets_of_different_classes_cannot_be_joined(tiny_set):
    register_coco_panoptic("tiny", *tiny_set.paths)
    with pytest.raises(ConfigError, match="'tiny' and 'cityscapes_fine_panoptic_val' differ in"):
        get_panoptic_classes(["tiny", "cityscapes_fine_panoptic_val"])


def test_data_sets_that_number_the_same_classes_in_other_ways_cannot_be_joined():
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    classes = PanopticClasses.from_metadata(metadata)
    DatasetCatalog.register("renumbered", lambda: [])
    MetadataCatalog.get("renumbered").set(**classes.metadata())
    with pytest.raises(ConfigError, match="differ in stuff_segment_ids"):
        get_panoptic_classes(["renumbered", "coco_2017_val_panoptic"])


def test_categories_that_were_mended_count_when_the_data_set_is_registered_again(tiny_set):
    register_coco_panoptic("tiny", *tiny_set.paths)
    tiny_set.content["categories"].insert(0, {"id": 0, "name": "ant", "isthing": 1})
    tiny_set.save()
    with pytest.raises(DatasetError, match=r"categories of .*changed .* register it again"):
        get_panoptic_dataset_dicts("tiny")
    register_coco_panoptic("tiny", *tiny_set.paths)
    assert MetadataCatalog.get("tiny").thing_classes == ["ant", "dog", "cat"]
    classes = get_panoptic_classes(["tiny"])
    things = [s for d in get_panoptic_dataset_dicts("tiny") for s in d["segments_info"]]
    named = {classes.class_name(*classes.segment_class(s)) for s in things if s["isthing"]}
    assert named == {"dog", "cat"}


STUFF_FROM_1 = {
    "thing_classes": ["cat", "dog"],
    "stuff_classes": ["sky", "grass"],
    "thing_dataset_id_to_contiguous_id": {7: 0, 3: 1},
    "stuff_dataset_id_to_contiguous_id": {12: 1, 30: 2},
}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"thing_classes": ["cat"], "stuff_classes": ["sky"]}, "lacks thing_dataset_id_to_cont"),
        (STUFF_FROM_1, "maps category 30 to 2, but stuff_classes has 2 names"),
        (
            {**STUFF_FROM_1, "thing_dataset_id_to_contiguous_id": {7: 0, 3: 5}},
            "maps category 3 to 5, but thing_classes has 2 names",
        ),
        (
            {**STUFF_FROM_1, "thing_dataset_id_to_contiguous_id": [7, 3]},
            r"thing_dataset_id_to_contiguous_id is \[7, 3\], expected a dict",
        ),
    ],
)
def test_what_a_registration_by_detectron2_lacks_is_named_with_what_has_it(
    tiny_set, metadata, message
):
    json, images, panoptic = map(str, tiny_set.paths)
    detectron2_register("d2", metadata, images, panoptic, json)
    for use in (get_panoptic_dataset_dicts, PanopticGroundTruth):
        with pytest.raises(DatasetError, match=rf"'d2'.*{message}"):
            use("d2")
    with pytest.raises(DatasetError, match=r"'d2'.*register_coco_panoptic|expected a dict"):
        get_panoptic_dataset_dicts("d2")


def test_records_without_what_every_record_needs_are_named():
    DatasetCatalog.register("odd", lambda: [{"image_id": 1, "segments_info": []}])
    with pytest.raises(DatasetError, match=r"'odd': its record 0 has no 'file_name'"):
        get_panoptic_dataset_dicts("odd")


def test_a_data_set_whose_things_are_all_crowds_is_not_trained_on(cfg, tiny_set):
    for annotation in tiny_set.content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["iscrowd"] = int(segment["category_id"] in (3, 7))
    tiny_set.save()
    register_coco_panoptic("crowds", *tiny_set.paths)
    cfg.DATASETS.TRAIN = ("crowds",)
    for cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS in (True, False):
        with pytest.raises(DatasetError, match=r"all 3 segments of things are crowds.*as-objects"):
            build_panoptic_train_loader(cfg)


def test_links_that_lead_out_are_followed_if_the_config_says_so(cfg, tiny_set, tmp_path):
    image = tiny_set.images / "a.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    cfg.DATASETS.PANOPTIC = [entry(tiny_set, "linked")]
    register_from_config(cfg)
    with pytest.raises(DatasetError, match=r"link that leads out.*DATASETS\.FOLLOW_LINKS"):
        get_panoptic_dataset_dicts("linked")
    cfg.DATASETS.FOLLOW_LINKS = True
    register_from_config(cfg)
    assert len(get_panoptic_dataset_dicts("linked")) == 2
