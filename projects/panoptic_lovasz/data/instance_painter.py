"""Annotations of a COCO instances JSON painted into the segments of a panoptic map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DatasetError
from .coco_instances import CocoInstances
from .fault import Fault
from .fields import shorten
from .id_map import VOID
from .images import ImageHeader, read_header, turn
from .run_masks import DegenerateMask, RunMask, read_mask

__all__ = ["InstancePainter", "PaintedImage"]


class PaintedImage(NamedTuple):
    """One image's annotations as a map of segments.

    Attributes:
        file: path of the image.
        header: its size, orientation and mode.
        id_map: int32 (H, W) segment ids, upright, 0 for void.
        segments: {"id", "category_id", "iscrowd"} of each.
    """

    file: str
    header: ImageHeader
    id_map: np.ndarray
    segments: list[dict[str, int]]


class InstancePainter:
    """Paints the images of a COCO instances JSON and counts what it leaves out.

    One mask at a time is spread out, so memory does not depend on how many there are.
    """

    def __init__(self, coco: CocoInstances):
        self.coco, self.choices = coco, coco.choices
        self._skipped: Counter[str] = Counter()
        self._first_skipped: dict[str, str] = {}
        self._hidden = 0
        self._turned: list[str] = []

    def paint(
        self, image: dict[str, Any], below: Sequence[tuple[np.ndarray, int]] = ()
    ) -> PaintedImage:
        """Paint the masks of one image: stuff, then crowds, then things, large before small.

        Args:
            image: its entry in the JSON.
            below: masks, bool (H, W) and upright, of further stuff, with their category ids.

        Raises:
            DatasetError: if the image cannot be read or is of another size than its entry says, or
                a mask is damaged; the message names image and annotation.
        """
        file = self.coco.files[image["id"]]
        header = read_header(file)
        size = self._check_size(image, file, header)
        if header.orientation != 1:
            self._turned.append(file)
        masks = self._masks(image, file, size[::-1])
        columns = np.zeros(size[0] * size[1], np.int32)
        segments: list[dict[str, int]] = []
        self._paint_masks(masks, columns, segments)
        shown = set(np.unique(columns).tolist())
        self._hidden += sum(s["id"] not in shown for s in segments)
        id_map = columns.reshape(size).T
        if self.choices.stored_pixels:
            id_map = turn(id_map, header.orientation)
        id_map = np.ascontiguousarray(id_map)
        for mask, category_id in below:
            segments.append({"id": len(segments) + 1, "category_id": category_id, "iscrowd": 0})
            id_map[mask & (id_map == VOID)] = segments[-1]["id"]
        return PaintedImage(file, header, id_map, segments)

    def summary(self) -> list[Fault]:
        """What was noticed while images were painted, in warnings that count it."""
        found = []
        for reason, count in self._skipped.items():
            what = f"{count} annotations are left out, the first is {self._first_skipped[reason]}"
            hint = "; --boxes-as-masks fills the boxes" if "only a box" in reason else ""
            found.append(("segmentation", f"{what}: {reason}{hint}"))
        if self._hidden:
            found.append(("segmentation", f"{self._hidden} masks are hidden behind others"))
        if self._turned:
            view = "stored pixels" if self.choices.stored_pixels else "upright view"
            found.append(
                (
                    "EXIF",
                    f"{len(self._turned)} images are turned by their EXIF orientation, the first "
                    f"is {self._turned[0]}: their annotations are taken as drawn on the {view}"
                    + ("" if self.choices.stored_pixels else " (see --stored-pixels)"),
                )
            )
        return [Fault(str(self.coco.json_file), where, message, False) for where, message in found]

    def _check_size(self, image: dict[str, Any], file: str, header: ImageHeader) -> tuple[int, int]:
        """Width and height of the masks."""
        size = header.stored_size if self.choices.stored_pixels else header.size
        declared = (image.get("width", size[0]), image.get("height", size[1]))
        if declared != size:
            hint = header.turned()
            if hint and not self.choices.stored_pixels:
                hint += "; if all masks were drawn on the stored pixels, give --stored-pixels"
            raise DatasetError(
                f"{file} is {size[0]} x {size[1]} pixels, but its entry in the JSON says "
                f"{declared[0]} x {declared[1]} (width x height){hint}"
            )
        return size

    def _masks(
        self, image: dict[str, Any], file: str, shape: tuple[int, int]
    ) -> list[tuple[RunMask, int, int]]:
        """Mask, category id and iscrowd of the annotations that have pixels."""
        masks = []
        for annotation in self.coco.annotations[image["id"]]:
            try:
                mask = read_mask(annotation, shape, self.choices.boxes_as_masks)
            except DegenerateMask as error:
                reason = str(error)
                self._skipped[reason] += 1
                name = f"{annotation.get('id')!r} of {image['file_name']}"
                self._first_skipped.setdefault(reason, name)
                continue
            except DatasetError as error:
                number = shorten(annotation.get("id"))
                raise DatasetError(f"{file}: annotation {number}: {error}") from None
            category = annotation["category_id"]
            crowd = (category in self.coco.things and annotation.get("iscrowd")) or 0
            masks.append((mask, category, 0 if self.choices.crowds_as_objects else int(crowd)))
        return masks

    def _paint_masks(
        self,
        masks: list[tuple[RunMask, int, int]],
        columns: np.ndarray,
        segments: list[dict[str, int]],
    ) -> None:
        id_of_stuff: dict[int, int] = {}
        order = sorted(masks, key=lambda m: (m[1] in self.coco.things, not m[2], -m[0].area))
        for mask, category, crowd in order:
            segment_id = id_of_stuff.get(category)
            if segment_id is None:
                segment_id = len(segments) + 1
                segments.append({"id": segment_id, "category_id": category, "iscrowd": crowd})
                if category not in self.coco.things:
                    id_of_stuff[category] = segment_id
            mask.paint(columns, segment_id)
