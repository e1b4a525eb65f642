import cv2
import numpy as np
import pytest
from detectron2.data import Metadata

from panoptic_lovasz.visualization.palette import (
    class_colors,
    distinct_colors,
    shade,
    text_color,
)


def lab(colors):
    pixels = np.asarray(colors, np.float32).reshape(-1, 1, 3) / 255
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab).reshape(-1, 3)


def nearest_distance(colors):
    points = lab(colors)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    return distances[~np.eye(len(points), dtype=bool)].min()


@pytest.mark.parametrize("vivid", [True, False])
def test_generated_colors_of_thirty_classes_are_visibly_different(vivid):
    just_noticeable = 2.3  # in CIELAB
    assert nearest_distance(distinct_colors(30, vivid=vivid)) > 5 * just_noticeable


def test_things_and_stuff_do_not_share_a_generated_color():
    things, stuff = class_colors(None, 12, 20)
    assert nearest_distance(np.concatenate([things, stuff])) > 10


def test_asking_for_more_colors_keeps_the_first_ones():
    np.testing.assert_array_equal(
        distinct_colors(20, vivid=True)[:7], distinct_colors(7, vivid=True)
    )


def test_a_thousand_classes_have_colors_too_of_which_some_come_again():
    colors = distinct_colors(1200, vivid=True)
    assert colors.shape == (1200, 3)
    assert 150 < len(np.unique(colors, axis=0)) < 1200
    assert distinct_colors(0, vivid=True).shape == (0, 3)


def test_the_data_sets_own_colors_are_kept():
    metadata = Metadata(
        thing_classes=["a"],
        stuff_classes=["things", "b"],
        thing_colors=[(1, 2, 3)],
        stuff_colors=[(0, 0, 0), (7, 8, 9)],
    )
    things, stuff = class_colors(metadata)
    assert things.tolist() == [[1, 2, 3]]
    assert stuff[1].tolist() == [7, 8, 9]


def test_colors_that_are_missing_for_one_kind_are_generated_away_from_the_others():
    metadata = Metadata(
        thing_classes=["a"], stuff_classes=["things", "b", "c"], thing_colors=[(220, 20, 60)]
    )
    things, stuff = class_colors(metadata)
    assert things.tolist() == [[220, 20, 60]]
    assert nearest_distance(np.concatenate([things, stuff])) > 20


def test_shade_zero_is_the_color_itself_and_the_next_ones_differ_visibly():
    for color in [*distinct_colors(12, vivid=True), (0, 0, 0), (255, 255, 255)]:
        shades = [shade(color, i) for i in range(4)]
        np.testing.assert_array_equal(shades[0], color)
        steps = np.linalg.norm(np.diff(lab(shades), axis=0), axis=1)
        assert steps.min() > 5, (color, shades)


def test_text_stands_out_from_every_generated_color_by_a_contrast_of_three():
    def luminance(rgb):
        linear = (np.asarray(rgb) / 255) ** 2.2
        return linear @ (0.2126, 0.7152, 0.0722) + 0.05

    for color in np.concatenate(class_colors(None, 80, 54)):
        light, dark = sorted((luminance(color), luminance(text_color(color))), reverse=True)
        assert light / dark >= 3, color
