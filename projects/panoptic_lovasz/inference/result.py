"""What a prediction is: a segment map and a list of segments with names, scores, areas, boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data import PanopticClasses, PanopticSample
from ..data.id_map import find_segments
from ..errors import DatasetError
from ..files import write_atomically
from ..visualization import draw_panoptic

__all__ = ["PanopticResult", "Segment"]


@dataclass(frozen=True)
class Segment:
    """One thing, or all of a stuff class, in one image.

    Attributes:
        id: its value in the segment map.
        class_name: name of its class.
        isthing: a countable object, not stuff.
        category_id: thing 0..T-1 or stuff 1..S, as the network numbers them.
        dataset_category_id: the class's id in the data set's own files.
        score: confidence in [0, 1] of a thing; None for stuff.
        area: pixels.
        box: x0, y0, x1, y1 in pixels; the last two lie outside.
    """

    id: int
    class_name: str
    isthing: bool
    category_id: int
    dataset_category_id: int
    score: float | None
    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class PanopticResult:
    """The panoptic segmentation of one image.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        segment_map: int32 (H, W), the id of each pixel's segment; 0 where there is none.
        segments: those with pixels, in the order of the network's output.
        classes: the model's classes.
        source: the path that the image was read from, None for an array or PIL image.
    """

    image: np.ndarray
    segment_map: np.ndarray
    segments: tuple[Segment, ...]
    classes: PanopticClasses
    source: Path | None = None

    @classmethod
    def from_output(
        cls,
        image: np.ndarray,
        panoptic_seg: np.ndarray,
        segments_info: Sequence[dict[str, Any]],
        classes: PanopticClasses,
        source: Path | None = None,
    ) -> PanopticResult:
        """Build a result from Panoptic FPN's output, ``{"panoptic_seg": (map, segments_info)}``."""
        found = find_segments(panoptic_seg)
        place = {segment_id: i for i, segment_id in enumerate(found.ids.tolist())}
        segments = []
        for info in segments_info:
            if info["id"] not in place:
                continue
            x, y, width, height = found.boxes[place[info["id"]]].tolist()
            kind = bool(info["isthing"]), info["category_id"]
            segments.append(
                Segment(
                    id=info["id"],
                    class_name=classes.class_name(*kind),
                    isthing=kind[0],
                    category_id=kind[1],
                    dataset_category_id=classes.dataset_id(*kind),
                    score=info.get("score"),
                    area=int(found.areas[place[info["id"]]]),
                    box=(x, y, x + width, y + height),
                )
            )
        return cls(image, panoptic_seg, tuple(segments), classes, source)

    @cached_property
    def segments_info(self) -> list[dict[str, Any]]:
        """The segments as Detectron2 has them: id, category_id, isthing and, of things, score."""
        fields = ("id", "category_id", "isthing", "score")
        dicts = [{field: getattr(s, field) for field in fields} for s in self.segments]
        return [{k: v for k, v in d.items() if v is not None} for d in dicts]

    def overlay(self, **options: Any) -> np.ndarray:
        """The image with the segmentation laid over it, a legend below; uint8 (H', W', 3) RGB.

        Args:
            options: those of :func:`~panoptic_lovasz.visualization.draw_panoptic`.
        """
        options = {"legend": True, **options}
        return draw_panoptic(
            self.image, self.segment_map, self.segments_info, self.classes.metadata(), **options
        )

    def save(self, path: str | os.PathLike, **options: Any) -> None:
        """Write :meth:`overlay` to an image file, atomically; the ending says in which format.

        Raises:
            DatasetError: if Pillow cannot write such a format.
        """
        save_picture(path, self.overlay(**options))

    def to_coco(
        self, file_name: str | None = None, image_id: int | str | None = None
    ) -> PanopticSample:
        """The prediction in the COCO panoptic format, for ``write_coco_panoptic``.

        Args:
            file_name: the image's path relative to the image folder; by default its name.
            image_id: its id; by default it is numbered when written.

        Raises:
            DatasetError: if the result was not read from a file and no name is given.
        """
        name = file_name or (self.source.name if self.source else None)
        if name is None:
            raise DatasetError("the image has no file: give to_coco(file_name=...) a name for it")
        segments = [
            {"id": s.id, "category_id": s.dataset_category_id}
            | ({} if s.score is None else {"score": round(s.score, 5)})
            for s in self.segments
        ]
        return PanopticSample(name, self.segment_map, segments, image_id)


def save_picture(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) RGB picture atomically, in the format that the ending names."""
    path = Path(path)
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise DatasetError(f"{path}: cannot write pictures that end in '{path.suffix}'; use .png")
    options = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 92, "subsampling": 0}}
    image = Image.fromarray(picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda f: image.save(f, format=kind, **options.get(kind, {})))
