"""Frames of video files and cameras, and video files from pictures, through OpenCV."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from ..errors import DatasetError
from ..files import replacing

__all__ = ["VIDEO_SUFFIXES", "VideoReader", "VideoWriter"]

VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
)


class VideoReader:
    """The frames of a video file, or of a camera, as uint8 (H, W, 3) RGB arrays.

    Args:
        source: path of a file, or the index of a camera.

    Attributes:
        fps: frames per second; 25 where the source does not say.
        num_frames: what the file announces; None for a camera or if it does not say.

    Raises:
        DatasetError: if the source cannot be opened, not a single frame can be read, or the file's
            name is not UTF-8.
    """

    def __init__(self, source: str | os.PathLike | int):
        self.name = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        if not isinstance(source, int) and not os.path.isfile(source):
            raise DatasetError(f"{self.name}: there is no such file")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else _utf8(source))
        self._num_read, self._seconds = 0, 0.0
        self._first = self._read() if self._capture.isOpened() else None
        if self._first is None:
            self._capture.release()
            raise DatasetError(f"{self.name}: no picture can be read from it")
        self._rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = self._rate if 1 <= self._rate <= 1000 else 25.0
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = count if count > 0 and not isinstance(source, int) else None

    def __iter__(self) -> Iterator[np.ndarray]:
        frame = self._first
        try:
            while frame is not None:
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                frame = self._read()
        finally:
            self._capture.release()

    def _read(self) -> np.ndarray | None:
        """The next frame, in BGR; None at the end."""
        frame = self._capture.read()[1]
        if frame is not None:
            self._num_read += 1
            self._seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return frame

    def check_complete(self) -> None:
        """Check that the frames went on until the announced end, after the last one was taken.

        A tenth of them may be missing, or two, since some containers only estimate their number;
        and of a video whose rate varies it is enough to have got as far in time.

        Raises:
            DatasetError: if the file ended early, as one does that was cut off.
        """
        if self.num_frames is None:
            return
        reached = max(self._num_read, self._seconds * self._rate)
        if reached < min(0.9 * self.num_frames, self.num_frames - 2):
            raise DatasetError(
                f"{self.name}: ended after {self._num_read} of {self.num_frames} frames; the rest "
                "cannot be read"
            )


class VideoWriter:
    """Writes pictures of one size to an .mp4 file, which appears when it is complete.

    Use it in a ``with`` block; an exception inside leaves no file behind, and so does an end that
    finds frames missing in the file.

    Args:
        path: the file.
        fps: frames per second, above 0; rounded as far as the codec wants it.

    Raises:
        DatasetError: if the file's name is not UTF-8.
        OSError: if it cannot be written, or at the end if it lacks frames, as on a full disk.
    """

    def __init__(self, path: str | os.PathLike, fps: float):
        self.path = Path(path)
        # the time base of MPEG-4 is at most 65535, and OpenCV makes it of all the digits
        self._fps = round(fps, int(math.log10(65535 / fps)))
        self._partial = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._num_written = 0

    def write(self, picture: np.ndarray) -> None:
        """Append a uint8 (H, W, 3) RGB picture."""
        height, width = (n // 2 * 2 for n in picture.shape[:2])  # the codec wants even sides
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            partial = self._partial.enter_context(replacing(self.path))
            self._writer = cv2.VideoWriter(_utf8(partial), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: OpenCV cannot write this video")
            self._partial.push(functools.partial(self._finish, self._writer, partial))
        self._writer.write(cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR))
        self._num_written += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error) -> None:
        self._partial.__exit__(*error)

    def _finish(self, writer: cv2.VideoWriter, partial: Path, error_type, *_) -> None:
        """Close the file and look what is in it: OpenCV does not tell that a disk is full."""
        writer.release()
        if error_type is not None:
            return
        found = int(cv2.VideoCapture(str(partial)).get(cv2.CAP_PROP_FRAME_COUNT))
        if found < self._num_written:
            raise OSError(
                f"{self.path}: {max(0, found)} of its {self._num_written} frames are in the file "
                "that was written; is the disk full?"
            )


def _utf8(path: str | os.PathLike) -> str:
    """The path for OpenCV, which crashes the process for one that it cannot encode.

    Raises:
        DatasetError: if it is not UTF-8.
    """
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DatasetError(
            f"{name!r}: its name is not UTF-8, so OpenCV cannot open it; rename it"
        ) from None
    return name
