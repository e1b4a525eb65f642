import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_lovasz.visualization.tracker import InstanceTracker


def frame(*boxes, size=(60, 60)):
    """A frame with one thing for each (id, class, x, y), 20 pixels wide and high."""
    seg = np.zeros(size, np.int32)
    for segment, _, x, y in boxes:
        seg[y : y + 20, x : x + 20] = segment
    info = [{"id": b[0], "isthing": True, "category_id": b[1]} for b in boxes]
    return seg, info


def shades(tracker, *boxes, **kwargs):
    return [s["shade"] for s in tracker.update(*frame(*boxes, **kwargs))]


def test_a_moving_instance_keeps_its_shade_whatever_its_id_and_place_in_the_list():
    tracker = InstanceTracker()
    assert shades(tracker, (1, 0, 0, 0), (2, 0, 30, 30)) == [0, 1]
    assert shades(tracker, (7, 0, 33, 30), (9, 0, 3, 0)) == [1, 0]
    assert shades(tracker, (1, 0, 6, 0), (2, 0, 36, 30)) == [0, 1]


def test_a_new_instance_gets_a_shade_that_its_class_does_not_show():
    tracker = InstanceTracker()
    shades(tracker, (1, 0, 0, 0))
    assert shades(tracker, (1, 0, 40, 40), (2, 0, 0, 0)) == [1, 0]


def test_an_instance_of_another_class_at_the_same_place_is_not_the_same():
    tracker = InstanceTracker()
    assert shades(tracker, (1, 0, 0, 0), (2, 0, 30, 30)) == [0, 1]
    assert shades(tracker, (5, 1, 30, 30)) == [0]


def test_an_instance_is_recognized_after_being_missed_for_up_to_memory_frames():
    for missed, expected in [(3, 1), (4, 0)]:
        tracker = InstanceTracker(memory=3)
        assert shades(tracker, (1, 0, 0, 0), (2, 0, 30, 30)) == [0, 1]
        for _ in range(missed):
            assert shades(tracker) == []
        assert shades(tracker, (3, 0, 30, 30)) == [expected]


def test_frames_of_another_size_start_afresh():
    tracker = InstanceTracker()
    shades(tracker, (1, 0, 0, 0), (2, 0, 30, 30))
    assert shades(tracker, (3, 0, 30, 30), size=(50, 50)) == [0]


def test_stuff_passes_through_unchanged():
    seg, info = frame((1, 0, 0, 0))
    info.append({"id": 5, "isthing": False, "category_id": 3, "area": 9})
    assert InstanceTracker().update(seg, info)[1] == info[1]
    assert "shade" not in info[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_no_two_instances_of_a_class_share_a_shade(seed, num_frames):
    rng = np.random.default_rng(seed)
    tracker = InstanceTracker(memory=2)
    for _ in range(num_frames):
        seg = rng.integers(0, 6, (4, 4)).repeat(5, 0).repeat(5, 1)
        classes = rng.integers(0, 2, 6).tolist()
        info = [{"id": i, "isthing": True, "category_id": classes[i]} for i in range(1, 6)]
        seen = [(s["category_id"], s["shade"]) for s in tracker.update(seg, info)]
        assert len(set(seen)) == len(seen)
