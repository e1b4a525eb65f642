import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from panoptic_lovasz.data.id_map import (
    find_segments,
    id_to_rgb,
    label_runs,
    read_panoptic_png,
    rgb_to_id,
    write_panoptic_png,
)
from panoptic_lovasz.errors import DatasetError

shapes_2d = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
few_labels = hnp.arrays(np.int32, shapes_2d, elements=st.integers(0, 4))
any_ids = hnp.arrays(np.int32, shapes_2d, elements=st.integers(0, 256**3 - 1))


def test_an_id_is_red_plus_256_green_plus_65536_blue():
    assert rgb_to_id(np.uint8([[1, 2, 3]])).tolist() == [1 + 256 * 2 + 65536 * 3]
    assert id_to_rgb(np.array([1 + 256 * 2 + 65536 * 3])).tolist() == [[1, 2, 3]]


@settings(deadline=None)
@given(any_ids)
def test_ids_survive_their_colors(ids):
    rgb = id_to_rgb(ids)
    assert rgb.dtype == np.uint8
    assert rgb.shape == (*ids.shape, 3)
    np.testing.assert_array_equal(rgb_to_id(rgb), ids)


@pytest.mark.parametrize("bad", [-1, 256**3])
def test_an_id_that_is_no_color_is_an_error(bad):
    with pytest.raises(DatasetError, match="16777215"):
        id_to_rgb(np.array([[bad]]))


def test_a_png_gives_its_ids_back(tmp_path):
    ids = np.random.default_rng(0).integers(0, 256**3, (31, 17))
    write_panoptic_png(tmp_path / "ids.png", ids)
    found = read_panoptic_png(tmp_path / "ids.png")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, ids)
    assert [p.name for p in tmp_path.iterdir()] == ["ids.png"]


def test_other_ways_to_store_8_bit_colors_are_read_alike(tmp_path):
    colors = np.array([0, 5, 70000])
    index = np.uint8([[0, 1, 2], [2, 1, 0]])
    palette = Image.fromarray(index).convert("P")
    palette.putpalette(id_to_rgb(colors).tobytes())
    with_alpha = Image.fromarray(id_to_rgb(colors[index])).convert("RGBA")
    with_alpha.putalpha(7)
    for image in (palette, with_alpha):
        image.save(tmp_path / "ids.png")
        np.testing.assert_array_equal(read_panoptic_png(tmp_path / "ids.png"), colors[index])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_gray_png_is_an_error_that_says_what_ids_look_like(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "gray.png")
    with pytest.raises(DatasetError, match=r"gray\.png has \d+-bit gray.*R \+ 256 G"):
        read_panoptic_png(tmp_path / "gray.png")


def test_a_png_of_16_bits_per_channel_is_an_error(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4, 3), 7, np.uint16))
    with pytest.raises(DatasetError, match="has 16-bit colors"):
        read_panoptic_png(tmp_path / "deep.png")


def test_a_missing_png_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.png does not exist"):
        read_panoptic_png(tmp_path / "nowhere.png")


def test_a_jpeg_is_an_error_since_it_changes_ids(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "lossy.png", format="JPEG")
    with pytest.raises(DatasetError, match=r"lossy\.png cannot be read: it is not a PNG"):
        read_panoptic_png(tmp_path / "lossy.png")


@pytest.mark.parametrize("cut", [0, 5, 40, -30])
def test_a_truncated_png_is_an_error_that_names_it(tmp_path, cut):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:cut])
    with pytest.raises(DatasetError, match=r"cut\.png cannot be read"):
        read_panoptic_png(tmp_path / "cut.png")


@settings(deadline=None)
@given(few_labels)
def test_runs_put_the_map_together_again_and_none_spans_two_rows(label_map):
    runs = label_runs(label_map)
    rebuilt = np.repeat(runs.values, runs.lengths).reshape(label_map.shape)
    np.testing.assert_array_equal(rebuilt, label_map)
    width = label_map.shape[1]
    assert (runs.starts // width == (runs.starts + runs.lengths - 1) // width).all()


@settings(deadline=None)
@given(few_labels)
def test_segments_have_the_area_and_the_tight_box_of_their_pixels(label_map):
    segments = find_segments(label_map)
    assert segments.ids.tolist() == sorted(set(label_map.ravel().tolist()))
    for label, area, (x, y, w, h) in zip(*segments, strict=True):
        rows, columns = np.nonzero(label_map == label)
        assert area == len(rows)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)


def test_runs_of_a_flipped_view_are_those_of_its_copy():
    flipped = (np.arange(12).reshape(3, 4) // 2)[:, ::-1]
    for found, expected in zip(label_runs(flipped), label_runs(flipped.copy()), strict=True):
        np.testing.assert_array_equal(found, expected)
