"""Frames of video files and cameras, and video files from pictures, through OpenCV."""

from __future__ import annotations

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
        DatasetError: if the source cannot be opened, or not a single frame can be read.
    """

    def __init__(self, source: str | os.PathLike | int):
        self.name = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        if not isinstance(source, int) and not os.path.isfile(source):
            raise DatasetError(f"{self.name}: there is no such file")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else self.name)
        self._first = self._capture.read()[1] if self._capture.isOpened() else None
        if self._first is None:
            self._capture.release()
            raise DatasetError(f"{self.name}: no picture can be read from it")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 1000 else 25.0
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = count if count > 0 and not isinstance(source, int) else None

    def __iter__(self) -> Iterator[np.ndarray]:
        frame = self._first
        try:
            while frame is not None:
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                _, frame = self._capture.read()
        finally:
            self._capture.release()


class VideoWriter:
    """Writes pictures of one size to an .mp4 file, which appears when it is complete.

    Use it in a ``with`` block; an exception inside leaves no file behind.
    """

    def __init__(self, path: str | os.PathLike, fps: float):
        self.path = Path(path)
        self._fps = fps
        self._partial = ExitStack()
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: np.ndarray) -> None:
        """Append a uint8 (H, W, 3) RGB picture."""
        height, width = (n // 2 * 2 for n in picture.shape[:2])  # the codec wants even sides
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            partial = self._partial.enter_context(replacing(self.path))
            self._writer = cv2.VideoWriter(str(partial), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: OpenCV cannot write this video")
        self._writer.write(cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error) -> None:
        if self._writer is not None:
            self._writer.release()
        self._partial.__exit__(*error)
