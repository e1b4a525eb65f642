"""The one reader of images, and what it refuses before anything is decoded."""

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image, ImageOps

from panoptic_lovasz.data import PanopticFPNDatasetMapper
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.data.images import ImageSizeError, is_hidden, read_header, read_image
from panoptic_lovasz.errors import DatasetError


def png_bomb(path, width, height, color_type=2):
    """Some kilobytes that claim to be, and are, a large black PNG."""
    channels = {0: 1, 2: 3}[color_type]
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + channels * width)) for _ in range(height))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n")
        header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
        for kind, chunk in ((b"IHDR", header), (b"IDAT", data + rows.flush()), (b"IEND", b"")):
            checksum = zlib.crc32(kind + chunk)
            f.write(struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", checksum))
    return path


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def _exif(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def test_training_and_prediction_see_the_same_pixels_of_a_16_bit_image(tmp_path):
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(read, np.repeat((values // 256)[..., None], 3, axis=2))
    mapper = PanopticFPNDatasetMapper(False, augmentations=[], image_format="BGR")
    mapped = mapper({"file_name": str(tmp_path / "deep.png")})["image"].numpy()
    np.testing.assert_array_equal(mapped.transpose(1, 2, 0), read)


def test_float_images_are_refused_by_name_in_training_too(tmp_path):
    Image.fromarray(np.linspace(0, 1, 12).reshape(3, 4).astype(np.float32)).save(tmp_path / "f.tif")
    mapper = PanopticFPNDatasetMapper(False, augmentations=[], image_format="RGB")
    with pytest.raises(DatasetError, match=r"f\.tif: its values are floats from 0.0 to 1.0"):
        mapper({"file_name": str(tmp_path / "f.tif")})


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_viewers_do_and_the_header_agrees(
    tmp_path, photo, suffix, orientation
):
    file = tmp_path / f"photo.{suffix}"
    Image.fromarray(photo).save(file, exif=_exif(orientation))
    read = read_image(file)
    with Image.open(file) as image:
        np.testing.assert_array_equal(read, ImageOps.exif_transpose(image))
    if suffix != "tif":  # which Pillow has turned before Detectron2 turns it again
        np.testing.assert_array_equal(read, detectron2_read_image(str(file), "RGB"))
    header = read_header(file)
    assert header.orientation == orientation
    assert header.size == (read.shape[1], read.shape[0])
    assert header.stored_size == (9, 6)
    np.testing.assert_array_equal(read_image(file, header.size), read)


@pytest.mark.parametrize("value", [0, 9])
def test_an_orientation_that_does_not_exist_changes_nothing(tmp_path, photo, value):
    exif = Image.Exif()
    exif[274] = value
    Image.fromarray(photo).save(tmp_path / "odd.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "odd.png"), photo)
    assert read_header(tmp_path / "odd.png").orientation == 1


@pytest.mark.attack
def test_an_image_of_another_size_than_the_data_set_says_is_not_decoded(tmp_path):
    bomb = png_bomb(tmp_path / "bomb.png", 9000, 9000)
    assert bomb.stat().st_size < 1e6
    tracemalloc.start()
    with pytest.raises(ImageSizeError, match=r"bomb\.png.* 9000 x 9000 pixels, but .* 128 x 128"):
        read_image(bomb, (128, 128))
    with pytest.raises(ImageSizeError, match=r"bomb\.png is 9000 x 9000 pixels, .* 128 x 128"):
        read_panoptic_png(bomb, (128, 128))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.attack
def test_without_a_size_to_expect_the_number_of_pixels_is_limited(tmp_path, monkeypatch, photo):
    Image.fromarray(photo).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 53)
    with pytest.raises(DatasetError, match=r"large\.png: .* 9 x 6 .* more than 53.* --max-pixels"):
        read_image(tmp_path / "large.png")
    np.testing.assert_array_equal(read_image(tmp_path / "large.png", (9, 6)), photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow refuses twice as many
    with pytest.raises(DatasetError, match=r"large\.png: .* too many pixels.* --max-pixels"):
        read_image(tmp_path / "large.png", (9, 6))


def test_the_message_of_a_turned_image_names_the_tag(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "phone.jpg", exif=_exif(6))
    with pytest.raises(ImageSizeError, match=r"6 x 9 .* says 9 x 6 .*EXIF orientation 6"):
        read_image(tmp_path / "phone.jpg", (9, 6))


@pytest.mark.attack
@pytest.mark.parametrize("read", [read_image, read_header, read_panoptic_png])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(DatasetError, match=rf"{name} cannot be read: it is not a regular file"):
            read(tmp_path / name)


def test_damaged_exif_data_do_not_spoil_the_pixels(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo)


@pytest.mark.parametrize(
    "name",
    ["._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "x/@eaDir/a.png"],
)
def test_what_systems_leave_behind_is_hidden(name):
    assert is_hidden(name)
    assert not is_hidden("street/a.b.png")
