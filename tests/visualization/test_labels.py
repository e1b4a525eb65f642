import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_lovasz.visualization.labels import (
    Label,
    draw_labels,
    legend_strip,
    title_bar,
)


def label(segment, text="name", isthing=True):
    return Label(text, (200, 30, 30), segment, isthing)


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 25),
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
)
def test_labels_never_overlap_nor_leave_the_picture(seed, num, shape):
    rng = np.random.default_rng(seed)
    index = np.zeros(shape, np.int32)
    for i in range(1, num):
        y, x = (int(rng.integers(n)) for n in shape)
        index[y : y + int(rng.integers(1, 120)), x : x + int(rng.integers(1, 120))] = i
    canvas = np.zeros((*shape, 3), np.uint8)
    drawn = draw_labels(canvas, index, [label(i, f"class {i}", i % 2 == 0) for i in range(num)], 14)
    boxes = [box for _, box in drawn]
    for i, box in enumerate(boxes):
        assert 0 <= box[0] < box[2] <= shape[1]
        assert 0 <= box[1] < box[3] <= shape[0]
        assert not any(overlap(box, other) for other in boxes[:i])


def test_a_large_segment_is_labeled_inside_and_off_the_object_on_it():
    index = np.zeros((400, 600), np.int32)
    index[150:250, 200:400] = 1
    drawn = draw_labels(
        np.zeros((400, 600, 3), np.uint8), index, [label(1), label(0, isthing=False)], 14
    )
    (_, (x0, y0, x1, y1)), (_, stuff) = drawn
    assert (index[y0:y1, x0:x1] == 1).all()
    assert not overlap(stuff, (200, 150, 400, 250))


def test_a_small_segment_is_labeled_beside_itself_and_stays_visible():
    index = np.zeros((400, 600), np.int32)
    index[200:212, 300:312] = 1
    [(_, box)] = draw_labels(np.zeros((400, 600, 3), np.uint8), index, [label(1)], 14)
    assert not overlap(box, (300, 200, 312, 212))
    assert overlap(box, (300 - 30, 200 - 30, 312 + 30, 212 + 30))


def test_a_label_without_room_is_left_out():
    index = np.zeros((20, 20), np.int32)
    canvas = np.full((20, 20, 3), 7, np.uint8)
    assert draw_labels(canvas, index, [label(0, "much too long a name")], 14) == []
    assert (canvas == 7).all()


def test_text_changes_the_pixels_of_its_box_alone():
    canvas = np.full((200, 300, 3), 50, np.uint8)
    [(_, (x0, y0, x1, y1))] = draw_labels(canvas, np.zeros((200, 300), int), [label(0)], 14)
    changed = (canvas != 50).any(axis=2)
    assert changed[y0:y1, x0:x1].mean() > 0.8
    changed[y0:y1, x0:x1] = False
    assert not changed.any()


def test_the_legend_wraps_into_as_many_rows_as_it_needs():
    entries = [(f"class number {i}", (i, 100, 200)) for i in range(12)]
    wide, narrow = legend_strip(4000, entries, 14), legend_strip(400, entries, 14)
    assert wide.shape[1] == 4000 and narrow.shape[1] == 400
    assert narrow.shape[0] > 3 * wide.shape[0]
    for _, color in entries:
        assert (narrow == color).all(axis=2).any()


def test_an_empty_legend_takes_no_room():
    assert legend_strip(100, [], 14).shape == (0, 100, 3)


@pytest.mark.parametrize("width", [1, 30, 300])
def test_a_title_that_is_too_long_is_cut(width):
    assert title_bar(width, "ground truth of the picture", 14).shape == (28, width, 3)
