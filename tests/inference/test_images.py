import re

import cv2
import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.inference.images import as_rgb, find_files, read_image


@pytest.fixture
def save(tmp_path):
    def save(image, name, **options):
        path = tmp_path / name
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(path, **options)
        return path

    return save


def test_a_color_image_is_read_as_it_is(save, photo):
    np.testing.assert_array_equal(read_image(save(photo, "a.png")), photo)


def test_a_grayscale_image_becomes_three_equal_channels(save, photo):
    read = read_image(save(photo[..., 0], "gray.png"))
    np.testing.assert_array_equal(read, np.repeat(photo[..., :1], 3, axis=2))


def test_transparency_is_dropped(save, photo):
    rgba = np.concatenate([photo, np.full((60, 90, 1), 7, np.uint8)], axis=2)
    np.testing.assert_array_equal(read_image(save(rgba, "rgba.png")), photo)


def test_a_palette_image_has_the_colors_of_its_palette(save):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert read_image(save(image, "palette.png"))[0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_a_16_bit_grayscale_image_keeps_its_high_bytes(save, photo):
    deep = photo[..., 0].astype(np.uint16) * 256 + 200
    for name in ("deep.png", "deep.tif"):
        read = read_image(save(Image.fromarray(deep), name))
        np.testing.assert_array_equal(read, np.repeat(photo[..., :1], 3, axis=2))


def test_a_16_bit_color_image_keeps_its_high_bytes(tmp_path, photo):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), photo[..., ::-1].astype(np.uint16) * 256 + 200)
    np.testing.assert_array_equal(read_image(path), photo)


def test_an_image_rotated_by_exif_is_turned_upright(save, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = save(photo, "phone.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(photo, -1))


def test_a_cmyk_jpeg_is_read_as_colors(save):
    path = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "print.jpg")
    red = read_image(path)[4, 4]
    assert red[0] > 200 and red[1] < 60 and red[2] < 60


def test_of_an_animation_the_first_picture_is_taken(save):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    path = save(frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


def test_an_image_of_one_pixel_is_read(save):
    assert read_image(save(np.uint8([[[1, 2, 3]]]), "one.png")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.jpg", b"not an image at all"),
        ("empty.png", b""),
        ("header.png", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{name} cannot be read: "):
        read_image(tmp_path / name)


def test_a_truncated_jpeg_is_refused_rather_than_half_gray(photo_folder):
    with pytest.raises(DatasetError, match=r"cut\.jpg cannot be read: .*runcated"):
        read_image(photo_folder / "cut.jpg")


def test_a_truncated_pil_image_is_refused_as_its_file_is(photo_folder):
    with (
        Image.open(photo_folder / "cut.jpg") as image,
        pytest.raises(DatasetError, match=r"^it cannot be read: .*runcated"),
    ):
        as_rgb(image)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")


def test_float_values_are_refused_because_their_range_is_unknown(save):
    path = save(np.array([[0.5, 2.0]], np.float32), "depth.tif")
    with pytest.raises(DatasetError, match=r"floats from 0.5 to 2.0; expected 8 or 16 bits"):
        read_image(path)


def test_32_bit_values_are_read_as_16_bit_ones_where_they_fit(save, photo):
    deep = photo[..., 0].astype(np.int32) * 256 + 200
    read = read_image(save(Image.fromarray(deep), "deep.tif"))
    np.testing.assert_array_equal(read, np.repeat(photo[..., :1], 3, axis=2))
    path = save(Image.fromarray(deep - 300), "signed.tif")
    with pytest.raises(DatasetError, match=r"32-bit integers from -\d+ to \d+; expected 8 or 16"):
        read_image(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.astype(np.uint16) * 256 + 9,
        lambda x: np.concatenate([x, x[..., :1]], axis=2),
        Image.fromarray,
    ],
)
def test_arrays_and_pil_images_give_the_same_pixels(photo, change):
    np.testing.assert_array_equal(as_rgb(change(photo)), photo)


def test_arrays_of_opencv_are_turned_to_rgb_on_request(photo):
    bgra = np.concatenate([photo[..., ::-1], photo[..., :1]], axis=2)
    np.testing.assert_array_equal(as_rgb(photo[..., ::-1], "BGR"), photo)
    np.testing.assert_array_equal(as_rgb(bgra, "BGR"), photo)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "not float32 (4, 4, 3)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "not uint8 (2, 4, 4, 3)"),
        (np.zeros((4, 4, 2), np.uint8), "not uint8 (4, 4, 2)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        ([[1, 2]], "not a list"),
    ],
)
def test_arrays_of_another_kind_are_refused(wrong, message):
    with pytest.raises(DatasetError, match=re.escape(message)):
        as_rgb(wrong)


def test_of_a_folder_the_images_are_taken_sorted_and_the_text_file_is_not(photo_folder):
    names = [f.name for f in find_files([photo_folder])]
    assert names == ["a.png", "b.jpg", "cut.jpg", "empty.png"]


def test_ten_thousand_files_in_a_folder_are_all_found(tmp_path):
    for i in range(10_000):
        (tmp_path / f"{i:05}.jpg").touch()
    (tmp_path / "readme.md").touch()
    assert [f.name for f in find_files([tmp_path])] == [f"{i:05}.jpg" for i in range(10_000)]


def test_patterns_reach_into_folders_and_nothing_is_listed_twice(photo_folder):
    pattern = str(photo_folder.parent / "**" / "*.jpg")
    files = find_files([photo_folder / "b.jpg", pattern, photo_folder / "b.jpg"])
    assert [f.name for f in files] == ["b.jpg", "cut.jpg"]


def test_two_ways_to_write_a_path_give_the_file_once(photo_folder, monkeypatch):
    monkeypatch.chdir(photo_folder)
    files = find_files(["a.png", photo_folder / "a.png", "./a.png", "../photos/b.jpg", "*.jpg"])
    assert [str(f) for f in files] == ["a.png", "../photos/b.jpg", "cut.jpg"]


def test_a_file_with_brackets_in_its_name_is_not_taken_for_a_pattern(tmp_path):
    (tmp_path / "scan[1].jpg").touch()
    assert find_files([tmp_path / "scan[1].jpg"]) == [tmp_path / "scan[1].jpg"]


def test_an_input_that_stands_for_no_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"\*\.bmp: there is no such file"):
        find_files([tmp_path / "*.bmp"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match="the folder has no image among its 1 files"):
        find_files([tmp_path])
