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
