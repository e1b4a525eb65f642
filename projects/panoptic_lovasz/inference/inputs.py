"""What a prediction job works on: images, videos and cameras, with a name for each one's output."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import PanopticClasses, get_panoptic_classes, get_panoptic_dataset_dicts
from .images import find_files
from .video import VIDEO_SUFFIXES

__all__ = ["Inputs"]


@dataclass
class Inputs:
    """Images, videos and cameras to predict.

    Attributes:
        images: file -> name of its output, without folder and ending; no two are alike.
        videos: file -> name of its output, of which no two are alike, nor one and a camera's.
        cameras: index -> name of its output.
        truth: image file -> its dataset dict with the ground truth, where there is one.
        truth_classes: the classes of the ground truth, which need not be the model's.
    """

    images: dict[Path, str] = field(default_factory=dict)
    videos: dict[Path, str] = field(default_factory=dict)
    cameras: dict[int, str] = field(default_factory=dict)
    truth: dict[Path, dict[str, Any]] = field(default_factory=dict)
    truth_classes: PanopticClasses | None = None

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Inputs:
        """Understand files, folders and patterns (see ``find_files``), and indices of cameras.

        Raises:
            DatasetError: if an argument stands for nothing.
        """
        is_camera = [a.isdecimal() and not Path(a).exists() for a in arguments]
        cameras = {
            int(a): Path(f"camera_{int(a)}")
            for a, yes in zip(arguments, is_camera, strict=True)
            if yes
        }
        files = find_files([a for a, yes in zip(arguments, is_camera, strict=True) if not yes])
        videos = [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES]
        images = [f for f in files if f.suffix.lower() not in VIDEO_SUFFIXES]
        names = _unique_names([*videos, *cameras.values()])
        return cls(
            _unique_names(images),
            {video: names[video] for video in videos},
            {index: names[camera] for index, camera in cameras.items()},
        )

    @classmethod
    def from_dataset(cls, name: str) -> Inputs:
        """The images of a registered panoptic data set, with their ground truth.

        Raises:
            DatasetError: if no such data set is registered, its files are not there, or it is not
                panoptic.
        """
        truth = {Path(d["file_name"]): d for d in get_panoptic_dataset_dicts(name)}
        classes = get_panoptic_classes([name])
        return cls(images=_unique_names(list(truth)), truth=truth, truth_classes=classes)

    def coco_names(self) -> dict[Path, str]:
        """Paths of the images from the folder that holds them all, as a COCO JSON names them."""
        files = {path: Path(os.path.abspath(path)) for path in self.images}
        if not files:
            return {}
        folder = os.path.commonpath([file.parent for file in files.values()])
        return {path: file.relative_to(folder).as_posix() for path, file in files.items()}

    def streams(self) -> list[tuple[Path | int, str, str]]:
        """Videos and cameras: source, name of its output, prefix of its frames in a COCO JSON.

        A frame is named by the prefix and its number, which no other frame or image is.
        """
        stems = [Path(name).with_suffix("").as_posix() for name in self.coco_names().values()]
        numbered = (re.fullmatch("(.*?)[0-9]+", stem, re.DOTALL) for stem in stems)
        taken = {match[1] for match in numbered if match}
        names: list[tuple[Path | int, str]] = [*self.videos.items(), *self.cameras.items()]
        streams = []
        for source, name in names:
            prefix = f"{name}_"
            while prefix in taken:
                prefix += "frame_"
            taken.add(prefix)
            streams.append((source, name, prefix))
        return streams

    def image_ids(self) -> dict[Path, int | str]:
        """Ids of the images: the data set's, else names such as COCO's 000000142238.jpg.

        Beside videos and cameras, whose frames are counted, there are none.
        """
        if self.truth:
            return {path: d["image_id"] for path, d in self.truth.items()}
        if self.videos or self.cameras:
            return {}
        ids: dict[Path, int | str] = {f: int(f.stem) for f in self.images if f.stem.isdecimal()}
        return ids if len(set(ids.values())) == len(self.images) else {}


def _unique_names(files: Sequence[Path]) -> dict[Path, str]:
    """The files' names without endings, with a number where two would be alike."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name, number = file.stem, 1
        while name in taken:
            number += 1
            name = f"{file.stem}_{number}"
        taken.add(name)
        names[file] = name
    return names
