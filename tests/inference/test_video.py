import os
import resource
import types

import cv2
import numpy as np
import pytest

from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.inference.video import VideoReader, VideoWriter


def frame(position):
    picture = np.full((48, 64, 3), (30, 60, 200), np.uint8)
    picture[10:40, position : position + 20] = (220, 40, 30)
    return picture


def test_frames_that_were_written_are_read_back_in_order(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 12) as writer:
        for i in range(5):
            writer.write(frame(8 * i))
    reader = VideoReader(tmp_path / "a.mp4")
    assert (reader.fps, reader.num_frames) == (12, 5)
    frames = list(reader)
    assert len(frames) == 5
    for i, picture in enumerate(frames):
        assert np.abs(picture.astype(int) - frame(8 * i)).mean() < 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_pictures_with_odd_sides_lose_a_row_and_a_column(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4", 5) as writer:
        writer.write(np.zeros((49, 63, 3), np.uint8))
    assert next(iter(VideoReader(tmp_path / "odd.mp4"))).shape == (48, 62, 3)


def test_an_interrupted_video_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 5) as writer:
        writer.write(frame(0))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_nothing_written_leaves_no_file(tmp_path):
    with VideoWriter(tmp_path / "sub" / "a.mp4", 5):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(DatasetError, match=r"bad\.mp4: no picture can be read"):
        VideoReader(tmp_path / "bad.mp4")
    with pytest.raises(DatasetError, match=r"none\.mp4: there is no such file"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(DatasetError, match="camera 99: no picture can be read"):
        VideoReader(99)


def test_a_full_disk_is_an_error_and_leaves_the_older_video(tmp_path):
    (tmp_path / "a.mp4").write_text("older")
    noise = np.random.default_rng(0).integers(0, 256, (20, 120, 160, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, limits[1]))  # as a disk of so many bytes
    try:
        with (
            pytest.raises(OSError, match=r"a\.mp4: 0 of its 20 frames are in the file"),
            VideoWriter(tmp_path / "a.mp4", 25) as writer,
        ):
            for picture in noise:
                writer.write(picture)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_text() == "older"


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(29.97, 29.97), (65.536, 65.54), (119.457, 119.46), (700.129, 700.1), (1000.0, 1000.0)],
)
def test_any_frame_rate_is_written_as_exactly_as_the_codec_can(tmp_path, fps, expected):
    with VideoWriter(tmp_path / "a.mp4", fps) as writer:
        for i in range(3):
            writer.write(frame(i))
    reader = VideoReader(tmp_path / "a.mp4")
    assert (reader.fps, reader.num_frames) == (pytest.approx(expected, abs=1e-3), 3)


def test_a_video_that_was_cut_off_gives_its_frames_and_then_says_how_many_it_lacks(cut_off):
    reader = VideoReader(cut_off)
    count = len(list(reader))
    assert 2 < count < 10
    with pytest.raises(DatasetError, match=rf"cut\.avi: ended after {count} of 20 frames"):
        reader.check_complete()


@pytest.mark.parametrize(
    ("announced", "seconds", "is_complete"),
    [(7, 0, True), (5, 0, True), (8, 0, False), (200, 20, True), (200, 17, False)],
)
def test_a_number_of_frames_that_is_only_estimated_is_no_error(
    tmp_path, monkeypatch, announced, seconds, is_complete
):
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        for _ in range(5):
            writer.write(frame(0))

    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    told = {cv2.CAP_PROP_FRAME_COUNT: announced, cv2.CAP_PROP_POS_MSEC: 1000 * seconds}
    other = types.SimpleNamespace(
        isOpened=capture.isOpened,
        read=capture.read,
        get=lambda key: told.get(key, capture.get(key)),
        release=capture.release,
    )
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: other)
    reader = VideoReader(tmp_path / "a.mp4")
    assert len(list(reader)) == 5
    if is_complete:
        reader.check_complete()
    else:
        with pytest.raises(DatasetError, match=f"after 5 of {announced} frames"):
            reader.check_complete()


def test_a_name_that_is_not_utf8_is_an_error_rather_than_a_crash(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    try:
        open(path, "w").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    with pytest.raises(DatasetError, match=r"udcff\.mp4': its name is not UTF-8"):
        VideoReader(path)
    with (
        pytest.raises(DatasetError, match="its name is not UTF-8"),
        VideoWriter(path, 5) as writer,
    ):
        writer.write(frame(0))
