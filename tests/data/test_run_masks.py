"""Masks as runs, compared with what pycocotools decodes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from panoptic_lovasz.data.run_masks import DegenerateMask, read_mask
from panoptic_lovasz.errors import DatasetError

SHAPE = (20, 30)
SQUARE = [2, 2, 12, 2, 12, 10, 2, 10]


def spread(segmentation, shape=SHAPE, **options):
    columns = np.zeros(shape[0] * shape[1], np.int32)
    mask = read_mask({"segmentation": segmentation}, shape, **options)
    mask.paint(columns, 1)
    painted = columns.reshape(shape[::-1]).T
    assert painted.sum() == mask.area
    return painted


@given(st.data())
def test_polygons_cover_the_pixels_that_pycocotools_draws(data):
    shape = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    number = st.floats(-20, 80).map(lambda v: round(v, 2))
    polygon = st.lists(number, min_size=6, max_size=12)
    polygons = data.draw(st.lists(polygon, min_size=1, max_size=3))
    polygons = [p[: len(p) // 2 * 2] for p in polygons]
    merged = mask_util.merge(mask_util.frPyObjects(polygons, *shape))
    expected = mask_util.decode(merged)
    if expected.any():
        np.testing.assert_array_equal(spread(polygons, shape), expected)
    else:
        with pytest.raises(DegenerateMask, match="no pixel"):
            spread(polygons, shape)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_an_rle_means_what_pycocotools_means_by_it(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    mask[0, 0] = True
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    compressed = {"size": [height, width], "counts": rle["counts"].decode()}
    np.testing.assert_array_equal(spread(compressed, (height, width)), mask)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    np.testing.assert_array_equal(
        spread({"size": [height, width], "counts": counts}, (height, width)), mask
    )


def test_polygons_of_less_than_three_points_are_left_out_among_others():
    np.testing.assert_array_equal(spread([[20, 15], [1, 2, 3, 4], SQUARE]), spread([SQUARE]))


def test_a_polygon_that_is_not_in_a_list_is_one():
    np.testing.assert_array_equal(spread(SQUARE), spread([SQUARE]))


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[]],
        [[10, 10, 14, 12]],
        [[20, 15]],
        [[5, 5, 5, 5, 5, 5]],
        [[100, 100, 120, 100, 120, 120]],
        [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]],
        [[*SQUARE, 3]],
        [[float("nan"), 1, 2, 3, 4, 5]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        {"size": [20, 30], "counts": [600]},
    ],
)
def test_a_mask_without_a_pixel_is_degenerate(segmentation):
    with pytest.raises(DegenerateMask):
        spread(segmentation)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [30, 20], "counts": [600]}, r"size \[30, 20\], its image \[20, 30\]"),
        ({"size": [20, 30], "counts": None}, "counts None"),
        ({"size": [20, 30], "counts": [10, 20]}, "counts are of 30 pixels, the image has 600"),
        ({"size": [20, 30], "counts": [10, -20]}, r"counts \[10, -20\]"),
        ({"size": [20, 30], "counts": [2**70]}, "counts"),
        ({"size": [20, 30], "counts": ""}, "damaged"),
        ({"size": [20, 30], "counts": "abc~"}, "damaged"),
        ({"size": [20, 30], "counts": "0" * 10}, "damaged"),
        ({"size": [20, 30], "counts": "\x00"}, "damaged"),
        ({"size": [20, 30], "counts": "o" * 100}, "damaged"),
        ("polygon", "expected polygons"),
        ([["1", "2"]], "expected \\[x0, y0"),
        ([[True, 1, 2, 3, 4, 5]], "expected \\[x0, y0"),
    ],
)
def test_a_damaged_mask_is_an_error_that_says_how(segmentation, message):
    with pytest.raises(DatasetError, match=message) as error:
        spread(segmentation)
    assert not isinstance(error.value, DegenerateMask)


def test_a_box_takes_the_place_of_a_mask_only_if_that_is_asked_for():
    annotation = {"segmentation": [], "bbox": [2, 3, 4, 5]}
    assert read_mask(annotation, SHAPE, box=True).area == 20
    with pytest.raises(DegenerateMask, match="only a box"):
        read_mask(annotation, SHAPE)
    for box in (None, [1, 2, 3], [1, 2, 0, 4], ["1", 2, 3, 4]):
        with pytest.raises(DegenerateMask):
            read_mask({"bbox": box}, SHAPE, box=True)
