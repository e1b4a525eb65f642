import math

from panoptic_lovasz.metrics import TITLES, averages, by_class, find, of_test_sets

RESULTS = {
    "depth/error": 0.5,
    "depth/error-sky": 0.25,
    "panoptic_seg/mIoU": 70.0,
    "panoptic_seg/PQ": 60.0,
    "panoptic_seg/PQ-traffic-light/red": 30.0,
    "panoptic_seg/PQ-sky": 90.0,
}


def test_what_people_look_at_comes_first_and_what_is_not_listed_comes_too():
    assert list(averages(RESULTS).items()) == [("PQ", 60.0), ("mIoU", 70.0), ("depth/error", 0.5)]


def test_values_by_class_are_found_for_every_metric_whatever_characters_a_class_has():
    assert by_class(RESULTS) == {
        "depth/error": {"sky": 0.25},
        "panoptic_seg/PQ": {"traffic-light/red": 30.0, "sky": 90.0},
    }


def test_several_test_sets_are_told_apart_by_their_names():
    flat = {f"{t}/{k}": v for t in ("my-val", "my-val-2") for k, v in RESULTS.items()}
    assert of_test_sets(flat, ["my-val", "my-val-2"]) == {"my-val": RESULTS, "my-val-2": RESULTS}
    assert of_test_sets(RESULTS, ["my-val"]) == {"": RESULTS}


def test_a_metric_is_found_with_and_without_the_name_of_a_test_set():
    assert find({"a/panoptic_seg/PQ": 1.0, "b/panoptic_seg/PQ": 2.0}, TITLES["PQ"]) == 1.0
    assert find(RESULTS, TITLES["PQ"]) == 60.0
    assert math.isnan(find(RESULTS, TITLES["SQ"]))
