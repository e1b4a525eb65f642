"""COCO instances JSON as annotation tools export it: its records, and what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ..errors import DatasetError
from .categories import check_categories, is_color
from .fault import Fault
from .fields import check_field, check_file_name, describe_unmatched, read_json, shorten
from .paths import Folder

__all__ = ["CocoInstances", "InstanceChoices"]


@dataclass(frozen=True)
class InstanceChoices:
    """What to make of what annotation tools write; options of ``tools.convert coco``.

    Attributes:
        stuff_names: categories that are stuff; their masks become one segment an image.
        crowds_as_objects: take annotations of ``iscrowd`` 1, which are not trained, as objects.
        boxes_as_masks: fill the box of an annotation that has no mask.
        keep_root: keep the category that all others name as their supercategory.
        skip_missing: leave out images whose file is missing.
        stored_pixels: masks were drawn on the pixels as the file has them, before EXIF turns them.
        follow_links: let symbolic links lead out of the image folder.
    """

    stuff_names: Collection[str] = ()
    crowds_as_objects: bool = False
    boxes_as_masks: bool = False
    keep_root: bool = False
    skip_missing: bool = False
    stored_pixels: bool = False
    follow_links: bool = False


@dataclass
class CocoInstances:
    """The images and annotations of a COCO instances JSON, with what is wrong with them.

    Args:
        json_file: the JSON.
        image_folder: folder of its images.
        choices: what to make of it.

    Attributes:
        faults: of the JSON and of missing files, found when it is read.
        categories: "id", "name", "isthing" and, where it is one, "color".
        images: the sound ones whose files are there, in the order of the JSON.
        folder: the image folder.
        files: path of each of them by image id.
        annotations: the sound ones by image id.
        things: category ids of things.

    Raises:
        DatasetError: if the file is not a COCO instances JSON, or a stuff name is not in it.
    """

    json_file: str | os.PathLike
    image_folder: str | os.PathLike
    choices: InstanceChoices = field(default_factory=InstanceChoices)

    def __post_init__(self):
        self.json_file = os.fspath(self.json_file)
        content = _read(self.json_file)
        self.faults: list[Fault] = []
        self.annotations: dict[Any, list[dict[str, Any]]] = {}
        self.images = self._read_images(content["images"])
        self.categories = self._read_categories(content["categories"], content["annotations"])
        self.things = {c["id"] for c in self.categories if c["isthing"]}
        self._read_annotations(content["annotations"])
        self.files = self._find_files()
        self.images = [image for image in self.images if image["id"] in self.files]

    @property
    def errors(self) -> list[Fault]:
        """The faults for which nothing can be converted."""
        return [f for f in self.faults if f.is_error]

    def _fault(self, where: str, message: str, is_error: bool = True) -> None:
        message = message.removeprefix(where).lstrip(": ")
        self.faults.append(Fault(str(self.json_file), where, message, is_error))

    def _read_images(self, images: list[Any]) -> list[dict[str, Any]]:
        by_id: dict[Any, dict[str, Any]] = {}
        names: set[str] = set()
        for n, image in enumerate(images):
            where = f"images[{n}]"
            try:
                image_id = check_field(image, "id", (int, str), where)
                name = check_file_name(image, where)
                for side in {"width", "height"} & image.keys():
                    if check_field(image, side, (int,), where) <= 0:
                        raise DatasetError(f"{where}: {side} is {image[side]}, expected pixels")
            except DatasetError as error:
                self._fault(where, str(error))
                continue
            if image_id in by_id:
                other = by_id[image_id]["file_name"]
                self._fault(f"{where}.id", f"{image_id!r} is the id of image {other!r}, too")
            elif name in names:
                self._fault(f"{where}.file_name", f"{name!r} is that of an earlier image, too")
            else:
                by_id[image_id] = image
                names.add(name)
        return list(by_id.values())

    def _read_categories(self, categories: list[Any], annotations: list) -> list[dict[str, Any]]:
        sound = []
        for n, category in enumerate(categories):
            where = f"categories[{n}]"
            try:
                check_field(category, "id", (int,), where)
                check_field(category, "name", (str,), where)
                sound.append(category)
            except DatasetError as error:
                self._fault(where, str(error))
        ids = (a.get("category_id") for a in annotations if isinstance(a, dict))
        used = {i for i in ids if isinstance(i, (int, str))}
        root = None if self.choices.keep_root else _root(sound, used)
        if root is not None:
            self._fault(
                "categories",
                f"{root['name']!r} (id {root['id']}) is the supercategory of all others and has no "
                "annotation: it is left out as the export's root; --keep-root keeps it",
                False,
            )
            sound = [c for c in sound if c is not root]
        for what in ("id", "name"):
            for value, count in Counter(c[what] for c in sound).items():
                if count > 1:
                    self._fault("categories", f"the {what} {shorten(value)} occurs {count} times")
        names = {c["name"] for c in sound}
        if set(self.choices.stuff_names) - names:
            raise DatasetError(
                f"{self.json_file} has no categories "
                f"{sorted(set(self.choices.stuff_names) - names)}; it has {sorted(names)}"
            )
        unused = [c["name"] for c in sound if c["id"] not in used]
        if unused:
            some = shorten(", ".join(unused))
            self._fault("categories", f"{len(unused)} have no annotation: {some}", False)
        stuff = set(self.choices.stuff_names)
        sound = [
            {"id": c["id"], "name": c["name"], "isthing": int(c["name"] not in stuff), **_color(c)}
            for c in sound
        ]
        if not self.errors:
            try:
                check_categories(sound, str(self.json_file))
            except DatasetError as error:
                self._fault("categories", str(error).removeprefix(f"{self.json_file}: "))
        return sound

    def _read_annotations(self, annotations: list[Any]) -> None:
        image_ids = {image["id"] for image in self.images}
        category_ids = {c["id"] for c in self.categories}
        self.annotations = {image_id: [] for image_id in image_ids}
        seen: set[tuple] = set()
        repeated = crowds = rle_crowds = things = 0
        for n, annotation in enumerate(annotations):
            where = f"annotations[{n}]"
            try:
                image_id = check_field(annotation, "image_id", (int, str), where)
                category_id = check_field(annotation, "category_id", (int,), where)
                iscrowd = annotation.get("iscrowd") or 0
                if iscrowd not in (0, 1):
                    raise DatasetError(f"{where}: iscrowd is {shorten(iscrowd)}, expected 0 or 1")
                _check_reference(annotation, "image_id", image_ids, "image", where)
                _check_reference(annotation, "category_id", category_ids, "category", where)
            except DatasetError as error:
                self._fault(where, str(error))
                continue
            key = (image_id, category_id, json.dumps(annotation.get("segmentation")))
            if annotation.get("segmentation") and key in seen:
                repeated += 1
                continue
            seen.add(key)
            self.annotations[image_id].append(annotation)
            if category_id in self.things:
                things += 1
                crowds += iscrowd
                rle_crowds += iscrowd and isinstance(annotation.get("segmentation"), dict)
        if crowds:
            self._tell_crowds(int(crowds), int(rle_crowds), things)
        if repeated:
            self._fault("annotations", f"{repeated} repeat another's mask and are left out", False)
        empty = [i for i in self.images if not self.annotations[i["id"]]]
        if empty:
            first = shorten(empty[0]["file_name"])
            what = f"{len(empty)} of {len(self.images)} have no annotation, the first is {first}"
            self._fault("images", f"{what}: all their pixels are void", False)

    def _tell_crowds(self, crowds: int, rle_crowds: int, things: int) -> None:
        what = f"{crowds} of the {things} annotations of things are crowds (iscrowd 1)"
        if self.choices.crowds_as_objects:
            self._fault("iscrowd", f"{what}; they are taken as objects, as asked for", False)
            return
        masks = f", {rle_crowds} of them RLE masks" if rle_crowds else ""
        self._fault(
            "iscrowd",
            f"{what}{masks}: they are never trained or evaluated as instances. Where they are "
            "single objects, as brush masks of CVAT are, give --crowds-as-objects",
            False,
        )

    def _find_files(self) -> dict[Any, str]:
        folder = self.folder = Folder(self.image_folder, self.choices.follow_links)
        files: dict[Any, str] = {}
        missing: list[str] = []
        names: dict[str, str] = {}  # in the JSON, by path
        for image in self.images:
            try:
                path = folder.find(image["file_name"])
                other = names.setdefault(os.path.abspath(path), image["file_name"])
                if other != image["file_name"]:
                    what = f"{image['file_name']!r} and {other!r} are the same file"
                    self._fault("images.file_name", what)
                files[image["id"]] = path
            except FileNotFoundError:
                missing.append(image["file_name"])
            except DatasetError as error:
                self._fault("images.file_name", str(error))
        if missing:
            what = f"{len(missing)} of {len(self.images)} image files are missing"
            what += folder.describe_missing(missing)
            skip = self.choices.skip_missing and bool(files)
            hint = "; they are left out" if skip else "; --skip-missing leaves them out"
            self._fault("images.file_name", what + hint, not skip)
        return files


def _read(json_file: str) -> dict[str, Any]:
    content = read_json(json_file, "COCO instances JSON")
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DatasetError(f"{json_file} is not a COCO instances JSON: it has no list '{name}'")
    for name in ("images", "categories"):
        if not content[name]:
            raise DatasetError(f"{json_file} is not a COCO instances JSON: '{name}' is empty")
    return content


def _check_reference(
    annotation: dict[str, Any], name: str, known: set, what: str, where: str
) -> None:
    if annotation[name] not in known:
        number = f" (id {shorten(annotation['id'])})" if "id" in annotation else ""
        message = describe_unmatched(annotation[name], known, what)
        raise DatasetError(f"{where}{number}: {name} {message}")


def _root(categories: list[dict[str, Any]], used: set) -> dict[str, Any] | None:
    """The category of Roboflow's exports that only holds the others together, if there is one."""
    for root in categories:
        others = [c for c in categories if c is not root]
        if (
            others
            and root["id"] not in used
            and root.get("supercategory") in (None, "", "none")
            and all(c.get("supercategory") == root["name"] for c in others)
        ):
            return root
    return None


def _color(category: dict[str, Any]) -> dict[str, list[int]]:
    """The category's color, which some tools write as "#rrggbb"."""
    color = category.get("color")
    if isinstance(color, str) and re.fullmatch("#[0-9a-fA-F]{6}", color):
        return {"color": list(bytes.fromhex(color[1:]))}
    return {"color": list(color)} if is_color(color) else {}
