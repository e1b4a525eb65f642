"""The classes of a panoptic data set, numbered as Panoptic FPN needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError
from ..visualization.palette import class_colors
from .categories import THINGS_CLASS, Color, category_colors, check_categories, fault_of_name
from .fields import shorten

if TYPE_CHECKING:
    from detectron2.data import Metadata

__all__ = ["IGNORE_LABEL", "THINGS_CLASS", "PanopticClasses"]

IGNORE_LABEL = 255  # semantic label of void and crowd pixels
_THINGS_COLOR = (82, 18, 128)  # Detectron2's own choice


@dataclass(frozen=True)
class PanopticClasses:
    """Things are 0..T-1 for the instance head, stuff is 1..S for the semantic head.

    Semantic class 0 is "things", all thing classes collapsed into one; void and crowd pixels have
    the label ``IGNORE_LABEL`` (255). This is the convention of Detectron2's Panoptic FPN
    (``coco_2017_train_panoptic_separated``), so its checkpoints keep their meaning.

    Attributes:
        thing_classes, thing_colors: name and RGB color of things 0..T-1.
        thing_dataset_ids: their category ids in the data set's files.
        stuff_classes, stuff_colors: name and RGB color of semantic classes 0..S; the first name is
            "things".
        stuff_dataset_ids: category ids of stuff 1..S in the data set's files (S entries).
        thing_segment_ids, stuff_segment_ids: the ``category_id`` by which Detectron2's dataset
            dicts name things 0..T-1 and stuff 1..S. 0..T-1 and 1..S too, except for registrations
            that number all classes in one range ("unified", such as Detectron2's own
            ``cityscapes_fine_panoptic_train``).
    """

    thing_classes: tuple[str, ...]
    thing_colors: tuple[Color, ...]
    thing_dataset_ids: tuple[int, ...]
    stuff_classes: tuple[str, ...]
    stuff_colors: tuple[Color, ...]
    stuff_dataset_ids: tuple[int, ...]
    thing_segment_ids: tuple[int, ...]
    stuff_segment_ids: tuple[int, ...]

    def __post_init__(self):
        for name in (*self.thing_classes, *self.stuff_classes):
            if fault := fault_of_name(name):
                raise DatasetError(f"the class name {shorten(name)} {fault}")
        if self.num_semantic > IGNORE_LABEL:
            raise DatasetError(
                f"{self.num_semantic - 1} stuff categories are too many: semantic labels are "
                f"0..{IGNORE_LABEL - 1}, since {IGNORE_LABEL} is void"
            )

    @classmethod
    def from_categories(cls, categories: Any, source: str = "categories") -> PanopticClasses:
        """Number the ``categories`` of a COCO panoptic JSON, both kinds ordered by category id.

        Args:
            categories: list of dicts with "id", "name", "isthing" and optionally "color" (RGB).
            source: the file that they come from, for messages.

        Raises:
            DatasetError: if a field is missing, of another type, or an id or name is taken twice.
        """
        categories = sorted(check_categories(categories, source), key=lambda c: c["id"])
        colors = category_colors(categories)
        things = [c for c in categories if c["isthing"]]
        stuff = [c for c in categories if not c["isthing"]]
        return cls(
            thing_classes=tuple(c["name"] for c in things),
            thing_colors=tuple(colors[c["id"]] for c in things),
            thing_dataset_ids=tuple(c["id"] for c in things),
            stuff_classes=(THINGS_CLASS, *(c["name"] for c in stuff)),
            stuff_colors=(_THINGS_COLOR, *(colors[c["id"]] for c in stuff)),
            stuff_dataset_ids=tuple(c["id"] for c in stuff),
            thing_segment_ids=tuple(range(len(things))),
            stuff_segment_ids=tuple(range(1, len(stuff) + 1)),
        )

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> PanopticClasses:
        """Take over the classes of a registered data set, Detectron2's built-in ones included.

        Raises:
            DatasetError: if the metadata has no classes, for instance because the data set's JSON
                was not there when it was registered.
        """
        try:
            thing_map = metadata.thing_dataset_id_to_contiguous_id
            stuff_map = metadata.stuff_dataset_id_to_contiguous_id
            thing_names, stuff_names = metadata.thing_classes, metadata.stuff_classes
        except AttributeError:
            lacking = [field for field in _METADATA_FIELDS if metadata.get(field) is None]
            raise DatasetError(
                f"data set '{metadata.get('name')}' has no panoptic classes: its metadata lacks "
                f"{', '.join(lacking)}{_metadata_hint(metadata)}"
            ) from None
        _check_names(metadata, "thing", thing_map, thing_names)
        _check_names(metadata, "stuff", stuff_map, stuff_names)
        things = sorted((index, dataset_id) for dataset_id, index in thing_map.items())
        stuff = sorted((index, dataset_id) for dataset_id, index in stuff_map.items())
        if len(stuff_names) and stuff_names[0] == THINGS_CLASS:
            stuff = [(index, dataset_id) for index, dataset_id in stuff if index != 0]
        elif {index for index, _ in things} & {index for index, _ in stuff}:
            raise DatasetError(
                f"data set '{metadata.get('name')}': its things and stuff share contiguous ids "
                f"although the first of stuff_classes is '{stuff_names[0]}', not '{THINGS_CLASS}'"
                f"{_metadata_hint(metadata)}"
            )
        thing_colors, stuff_colors = (colors.tolist() for colors in class_colors(metadata))
        return cls(
            thing_classes=tuple(thing_names[i] for i, _ in things),
            thing_colors=tuple(tuple(thing_colors[i]) for i, _ in things),
            thing_dataset_ids=tuple(dataset_id for _, dataset_id in things),
            stuff_classes=(THINGS_CLASS, *(stuff_names[i] for i, _ in stuff)),
            stuff_colors=(_THINGS_COLOR, *(tuple(stuff_colors[i]) for i, _ in stuff)),
            stuff_dataset_ids=tuple(dataset_id for _, dataset_id in stuff),
            thing_segment_ids=tuple(i for i, _ in things),
            stuff_segment_ids=tuple(i for i, _ in stuff),
        )

    @property
    def num_things(self) -> int:
        """T, the value of MODEL.ROI_HEADS.NUM_CLASSES."""
        return len(self.thing_classes)

    @property
    def num_semantic(self) -> int:
        """1 + S, the value of MODEL.SEM_SEG_HEAD.NUM_CLASSES."""
        return len(self.stuff_classes)

    @cached_property
    def from_dataset_id(self) -> dict[int, tuple[bool, int]]:
        """Category id in the data set's files -> (isthing, class id)."""
        return {
            **{c: (True, i) for i, c in enumerate(self.thing_dataset_ids)},
            **{c: (False, i) for i, c in enumerate(self.stuff_dataset_ids, start=1)},
        }

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes as ``categories`` of a COCO panoptic JSON: things, then stuff."""
        colors = {True: self.thing_colors, False: self.stuff_colors}
        return [
            {
                "id": dataset_id,
                "name": self.class_name(isthing, class_id),
                "isthing": int(isthing),
                "color": list(colors[isthing][class_id]),
            }
            for dataset_id, (isthing, class_id) in self.from_dataset_id.items()
        ]

    def dataset_id(self, isthing: bool, class_id: int) -> int:
        """Category id, in the data set's files, of thing 0..T-1 or stuff 1..S."""
        return self.thing_dataset_ids[class_id] if isthing else self.stuff_dataset_ids[class_id - 1]

    def class_name(self, isthing: bool, class_id: int) -> str:
        """Name of thing 0..T-1 or stuff 1..S."""
        return self.thing_classes[class_id] if isthing else self.stuff_classes[class_id]

    def segment_class(self, segment: Mapping[str, Any]) -> tuple[bool, int]:
        """Return (isthing, class id) of an entry of a dataset dict's ``segments_info``.

        Raises:
            DatasetError: if its category_id is not one of this data set.
        """
        category_id = segment["category_id"]
        isthing = segment.get("isthing")
        if isthing is None:  # Detectron2's Cityscapes dicts: one range of ids for both kinds
            isthing = category_id in self._thing_index
        index = (self._thing_index if isthing else self._stuff_index).get(category_id)
        if index is None:
            kind = "thing" if isthing else "stuff"
            allowed = self.thing_segment_ids if isthing else self.stuff_segment_ids
            raise DatasetError(
                f"segment {segment.get('id')}: {kind} category_id {category_id} is not one of "
                f"{list(allowed)}"
            )
        return bool(isthing), index

    def metadata(self) -> dict[str, Any]:
        """The fields that Detectron2's Metadata has for a "separated" panoptic data set."""
        # As in Detectron2, semantic class 0 ("things") needs a category id that no class has.
        things_id = 0 if 0 not in self.from_dataset_id else -1
        stuff_ids = {c: i for i, c in enumerate(self.stuff_dataset_ids, start=1)}
        return {
            "thing_classes": list(self.thing_classes),
            "thing_colors": [list(c) for c in self.thing_colors],
            "thing_dataset_id_to_contiguous_id": {
                c: i for i, c in enumerate(self.thing_dataset_ids)
            },
            "stuff_classes": list(self.stuff_classes),
            "stuff_colors": [list(c) for c in self.stuff_colors],
            "stuff_dataset_id_to_contiguous_id": {**stuff_ids, things_id: 0},
            "ignore_label": IGNORE_LABEL,
        }

    @cached_property
    def _thing_index(self) -> dict[int, int]:
        return {c: i for i, c in enumerate(self.thing_segment_ids)}

    @cached_property
    def _stuff_index(self) -> dict[int, int]:
        return {c: i for i, c in enumerate(self.stuff_segment_ids, start=1)}


_METADATA_FIELDS = (
    "thing_classes",
    "stuff_classes",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
)


def _check_names(metadata: Metadata, kind: str, ids: Any, names: Any) -> None:
    """Every contiguous id must have its name."""
    field = f"{kind}_dataset_id_to_contiguous_id"
    if not isinstance(ids, Mapping):
        raise DatasetError(
            f"data set '{metadata.get('name')}': {field} is {shorten(ids)}, expected a dict"
        )
    for dataset_id, index in ids.items():
        if type(index) is not int or not 0 <= index < len(names):
            first = f"; the first of stuff is '{THINGS_CLASS}'" if kind == "stuff" else ""
            raise DatasetError(
                f"data set '{metadata.get('name')}': {field} maps category {shorten(dataset_id)} "
                f"to {shorten(index)}, but {kind}_classes has {len(names)} names, "
                f"{shorten(list(names))}, counted from 0{first}{_metadata_hint(metadata)}"
            )


def _metadata_hint(metadata: Metadata) -> str:
    if metadata.get("evaluator_type") == "panoptic_lovasz":  # registered while its JSON was missing
        return f"; they are read from {metadata.get('panoptic_json')}"
    return (
        "; panoptic_lovasz.register_coco_panoptic(name, json, images, panoptic) takes all that is "
        "needed from the JSON"
    )
