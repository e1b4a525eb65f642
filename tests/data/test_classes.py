import json

import pytest
from detectron2.data import Metadata, MetadataCatalog

from panoptic_lovasz.data import PanopticClasses
from panoptic_lovasz.errors import DatasetError


@pytest.fixture
def coco_categories(shared_data):
    file = shared_data / "coco_panoptic_sample" / "panoptic_coco_categories.json"
    return json.loads(file.read_text())


def test_classes_of_both_kinds_are_numbered_by_category_id(tiny_classes):
    assert tiny_classes.thing_classes == ("dog", "cat")
    assert tiny_classes.stuff_classes == ("things", "sky", "grass")
    assert tiny_classes.from_dataset_id == {
        3: (True, 0),
        7: (True, 1),
        12: (False, 1),
        30: (False, 2),
    }
    assert (tiny_classes.num_things, tiny_classes.num_semantic) == (2, 3)


def test_class_ids_map_back_to_category_ids_and_names(tiny_classes):
    for category_id, (isthing, class_id) in tiny_classes.from_dataset_id.items():
        assert tiny_classes.dataset_id(isthing, class_id) == category_id
    assert tiny_classes.class_name(True, 1) == "cat"
    assert tiny_classes.class_name(False, 2) == "grass"


def test_colors_are_taken_over_and_missing_ones_made_up(tiny_classes):
    assert tiny_classes.thing_colors[1] == (10, 20, 30)
    colors = tiny_classes.thing_colors + tiny_classes.stuff_colors
    assert len(colors) == 5
    assert all(0 <= v <= 255 for color in colors for v in color)


def test_coco_has_the_class_order_of_detectron2s_panoptic_fpn(coco_categories):
    classes = PanopticClasses.from_categories(coco_categories)
    expected = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    ours = classes.metadata()
    assert ours["thing_classes"] == expected.thing_classes
    # Detectron2 shortens names such as "wall-other-merged".
    short = [n.replace("-other", "").replace("-merged", "") for n in ours["stuff_classes"]]
    assert short == expected.stuff_classes
    for field in (
        "thing_dataset_id_to_contiguous_id",
        "stuff_dataset_id_to_contiguous_id",
        "thing_colors",
        "stuff_colors",
    ):
        assert ours[field] == getattr(expected, field), field
    assert (classes.num_things, classes.num_semantic) == (80, 54)


def test_both_of_detectron2s_coco_registrations_give_the_same_classes(coco_categories):
    separated, standard = (
        PanopticClasses.from_metadata(MetadataCatalog.get(name))
        for name in ("coco_2017_val_panoptic_separated", "coco_2017_val_panoptic")
    )
    assert standard.thing_classes == separated.thing_classes
    assert standard.thing_dataset_ids == separated.thing_dataset_ids
    assert standard.stuff_dataset_ids == separated.stuff_dataset_ids
    assert PanopticClasses.from_categories(coco_categories).from_dataset_id == (
        standard.from_dataset_id
    )


def test_detectron2s_cityscapes_has_8_things_and_11_stuff():
    classes = PanopticClasses.from_metadata(MetadataCatalog.get("cityscapes_fine_panoptic_val"))
    assert classes.thing_classes == (
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    )  # fmt: skip
    assert classes.stuff_classes == (
        "things", "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
        "traffic sign", "vegetation", "terrain", "sky",
    )  # fmt: skip
    # Its dicts have train ids and no "isthing": 0 is road, 11 person, 18 bicycle.
    assert classes.segment_class({"category_id": 0}) == (False, 1)
    assert classes.segment_class({"category_id": 11}) == (True, 0)
    assert classes.segment_class({"category_id": 18}) == (True, 7)


def test_standard_coco_dicts_number_both_kinds_in_one_range():
    classes = PanopticClasses.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic"))
    assert classes.segment_class({"category_id": 79, "isthing": True}) == (True, 79)
    assert classes.segment_class({"category_id": 80, "isthing": False}) == (False, 1)


def test_our_own_metadata_gives_the_classes_back(tiny_classes):
    metadata = Metadata(name="tiny").set(**tiny_classes.metadata())
    assert PanopticClasses.from_metadata(metadata) == tiny_classes


def test_category_id_0_is_allowed():
    classes = PanopticClasses.from_categories(
        [{"id": 0, "name": "sky", "isthing": 0}, {"id": 8, "name": "car", "isthing": 1}]
    )
    assert classes.from_dataset_id == {0: (False, 1), 8: (True, 0)}
    # Every semantic class has a category id of its own, "things" too.
    ids = classes.metadata()["stuff_dataset_id_to_contiguous_id"]
    assert sorted(ids.values()) == [0, 1]
    assert PanopticClasses.from_metadata(Metadata().set(**classes.metadata())) == classes


def test_a_segment_of_an_unknown_class_is_an_error_that_lists_the_known_ones(tiny_classes):
    with pytest.raises(DatasetError, match=r"segment 4: thing category_id 9 .* \[0, 1\]"):
        tiny_classes.segment_class({"id": 4, "category_id": 9, "isthing": True})
    with pytest.raises(DatasetError, match=r"stuff category_id 0 .* \[1, 2\]"):
        tiny_classes.segment_class({"id": 4, "category_id": 0, "isthing": False})


def test_metadata_without_classes_is_an_error_that_says_which_fields():
    metadata = Metadata(name="empty").set(
        panoptic_json="/nowhere/p.json", evaluator_type="panoptic_lovasz"
    )
    with pytest.raises(DatasetError, match=r"'empty'.*thing_classes.*/nowhere/p\.json"):
        PanopticClasses.from_metadata(metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "id is None, expected an integer >= 0"),
        ({"id": -1}, "id is -1, expected an integer >= 0"),
        ({"id": True}, "id is True"),
        ({"id": 2}, "id 2 is taken"),
        ({"name": ""}, "name is '', expected a non-empty string"),
        ({"name": "first"}, "name 'first' is taken"),
        ({"name": "things", "isthing": 0}, "cannot be named 'things'"),
        ({"isthing": 2}, "isthing is 2, expected 0 .* or 1"),
        ({"isthing": "yes"}, "isthing is 'yes'"),
        ({"color": [1, 2]}, r"color is \[1, 2\]"),
        ({"color": [0, 0, 256]}, "expected three integers in 0..255"),
    ],
)
def test_a_wrong_category_is_an_error_that_names_file_place_and_value(change, message):
    categories = [
        {"id": 2, "name": "first", "isthing": 1},
        {"id": 5, "name": "second", "isthing": 1, **change},
    ]
    with pytest.raises(DatasetError, match=rf"f\.json: categories\[1\].*{message}"):
        PanopticClasses.from_categories(categories, "f.json")


def test_there_may_be_254_classes_of_stuff_and_not_more():
    stuff = [{"id": n, "name": str(n), "isthing": 0} for n in range(255)]
    assert PanopticClasses.from_categories(stuff[:254]).num_semantic == 255
    with pytest.raises(DatasetError, match="255 stuff categories are too many"):
        PanopticClasses.from_categories(stuff)


@pytest.mark.parametrize("field", ["id", "name", "isthing"])
def test_a_category_without_a_field_is_an_error(field):
    category = {"id": 2, "name": "first", "isthing": 1}
    del category[field]
    with pytest.raises(DatasetError, match=rf"categories\[0\] has no '{field}'"):
        PanopticClasses.from_categories([category])


@pytest.mark.parametrize("categories", [None, {}, [], "x", [3]])
def test_categories_that_are_no_list_of_objects_are_an_error(categories):
    with pytest.raises(DatasetError, match="categories"):
        PanopticClasses.from_categories(categories)


def test_metadata_whose_kinds_share_ids_is_an_error_that_says_why(tiny_classes):
    names = ["sky", "grass"]  # without "things" in front, as if stuff began at 0
    fields = {**tiny_classes.metadata(), "stuff_classes": names}
    fields["stuff_dataset_id_to_contiguous_id"] = {12: 0, 30: 1}
    with pytest.raises(DatasetError, match=r"'twice': its things and stuff share .*'sky'"):
        PanopticClasses.from_metadata(Metadata(name="twice").set(**fields))
