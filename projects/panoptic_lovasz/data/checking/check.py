"""Find every fault of a data set in the COCO panoptic format, where loading stops at the first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...errors import DatasetError
from ..classes import PanopticClasses
from ..coco_panoptic import check_segment, read_coco_panoptic_json
from ..fault import Fault
from ..fields import check_field, check_file_name, describe_unmatched
from ..images import is_hidden
from ..paths import Folder
from .files import ImageFindings, check_files
from .statistics import Statistics

__all__ = ["CheckReport", "check_coco_panoptic", "unlisted_files"]


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        faults: in the order of the data set.
        content: the JSON as read.
        findings: of each annotation whose PNG could be read, by its index in the JSON.
        statistics: pixels, instances and sizes.
    """

    faults: list[Fault]
    content: dict[str, Any]
    findings: dict[int, ImageFindings]
    statistics: Statistics

    @property
    def errors(self) -> list[Fault]:
        """The faults that are errors."""
        return [f for f in self.faults if f.is_error]


@dataclass
class _Outline:
    """The entries of the JSON that are sound enough to look at their files."""

    json_file: str
    classes: PanopticClasses
    faults: list[Fault] = field(default_factory=list)
    images: dict[Any, dict] = field(default_factory=dict)
    annotations: dict[int, dict] = field(default_factory=dict)  # by index

    def fault(self, field_name: str, message: str, is_error: bool = True) -> None:
        self.faults.append(Fault(self.json_file, field_name, message, is_error))


def check_coco_panoptic(
    json_file: str | os.PathLike,
    images: str | os.PathLike,
    panoptic: str | os.PathLike,
    *,
    follow_links: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> CheckReport:
    """Read a data set in the COCO panoptic format whole and report all that is wrong with it.

    Args:
        json_file: the panoptic JSON.
        images: folder of the images.
        panoptic: folder of the id PNGs.
        follow_links: let symbolic links lead out of the two folders.
        workers: threads that read files; by default one a processor.
        progress: show a progress bar if stderr is a terminal.

    Raises:
        DatasetError: if the JSON cannot be read, or its outline or categories are unusable, so
            that nothing in it can be judged.
    """
    json_file = os.fspath(json_file)
    content = read_coco_panoptic_json(json_file)
    outline = _Outline(json_file, PanopticClasses.from_categories(content["categories"], json_file))
    if not outline.classes.num_things:
        outline.fault("categories", "none is a thing; a panoptic model needs at least one")
    if not content["annotations"]:
        outline.fault("annotations", "there is none, so there is nothing to learn")
    _check_images(content["images"], outline)
    _check_annotations(content["annotations"], outline)
    statistics = Statistics(content["categories"])
    findings = {}
    folders = Folder(images, follow_links), Folder(panoptic, follow_links)
    for index, found in _read_all(outline, *folders, workers, progress):
        outline.faults += [Fault(*fault) for fault in found.faults]
        statistics.add(found)
        if found.areas:
            findings[index] = found
    _check_categories(outline, statistics)
    outline.faults += unlisted_files(images, (i["file_name"] for i in outline.images.values()))
    pngs = (a["file_name"] for a in outline.annotations.values())
    outline.faults += unlisted_files(panoptic, pngs)
    return CheckReport(outline.faults, content, findings, statistics)


def _check_images(images: list[Any], outline: _Outline) -> None:
    names: Counter = Counter()
    for n, image in enumerate(images):
        where = f"images[{n}]"
        try:
            image_id = check_field(image, "id", (int, str), where)
            names[check_file_name(image, where)] += 1
            for side in ("height", "width"):
                if check_field(image, side, (int,), where) <= 0:
                    raise DatasetError(f"{side} is {image[side]}, expected a size in pixels")
        except DatasetError as error:
            outline.fault(where, str(error))
            continue
        if image_id in outline.images:
            outline.fault(f"{where}.id", f"{image_id!r} is the id of an earlier image, too")
        else:
            outline.images[image_id] = image
    for name, count in names.items():
        if count > 1:
            outline.fault("images.file_name", f"{name!r} occurs {count} times")


def _check_annotations(annotations: list[Any], outline: _Outline) -> None:
    annotated: set[Any] = set()
    pngs: set[str] = set()
    for n, annotation in enumerate(annotations):
        where = f"annotations[{n}]"
        try:
            image_id = check_field(annotation, "image_id", (int, str), where)
            png = check_file_name(annotation, where)
            check_field(annotation, "segments_info", (list,), where)
        except DatasetError as error:
            outline.fault(where, str(error))
            continue
        if image_id not in outline.images:
            what = describe_unmatched(image_id, outline.images, "sound image")
            outline.fault(f"{where}.image_id", what)
            continue
        if image_id in annotated:
            outline.fault(f"{where}.image_id", f"{image_id!r} has an earlier annotation, too")
        if png in pngs:
            outline.fault(f"{where}.file_name", f"{png!r} is the PNG of an earlier annotation, too")
        annotated.add(image_id)
        pngs.add(png)
        _check_segments(annotation, where, outline)
        outline.annotations[n] = annotation
    for image_id in outline.images.keys() - annotated:
        name = outline.images[image_id]["file_name"]
        outline.fault("annotations", f"image {name!r} has none; it will not be used", False)


def _check_segments(annotation: dict, where: str, outline: _Outline) -> None:
    ids: set[int] = set()
    for n, segment in enumerate(annotation["segments_info"]):
        place = f"{where}.segments_info[{n}]"
        try:
            info = check_segment(segment, f"PNG {annotation['file_name']}", outline.classes)
        except DatasetError as error:
            outline.fault(place, str(error))
            continue
        if info["id"] in ids:
            outline.fault(f"{place}.id", f"{info['id']} is the id of an earlier segment, too")
        ids.add(info["id"])
        if info["iscrowd"]:
            kind = "crowd" if info["isthing"] else "stuff marked as a crowd"
            outline.fault(f"{place}.iscrowd", f"segment {info['id']} is a {kind}", False)


def _read_all(
    outline: _Outline, images: Folder, panoptic: Folder, workers: int | None, progress: bool
) -> Iterator[tuple[int, ImageFindings]]:
    def read(annotation: dict) -> ImageFindings:
        image = outline.images[annotation["image_id"]]
        return check_files(image, annotation, images, panoptic)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:  # Pillow decodes without the GIL
        found = pool.map(read, outline.annotations.values())
        hidden = None if progress else True  # None: shown if stderr is a terminal
        bar = tqdm(found, "checking", len(outline.annotations), disable=hidden, unit="image")
        yield from zip(outline.annotations, bar, strict=True)


def _check_categories(outline: _Outline, statistics: Statistics) -> None:
    unused = [row.name for row in statistics.rows() if row.images == 0]
    if unused:
        names = ", ".join(unused)
        outline.fault("categories", f"no image shows {len(unused)} of them: {names}", False)
    for row in statistics.rows():
        if row.isthing and row.images and not row.instances:
            outline.fault("categories", f"the thing {row.name} has crowds, no instance", False)


def unlisted_files(folder: str | os.PathLike, names: Iterable[str]) -> Iterator[Fault]:
    """A warning if a folder has files that none of the names is of."""
    root = os.fspath(folder)
    files = Path(root).iterdir() if os.path.isdir(root) else ()
    present = {p.name for p in files if p.is_file() and not is_hidden(p.name)}
    unlisted = sorted(present - {os.path.basename(name) for name in names})
    if unlisted:
        some = ", ".join(unlisted[:3]) + (", ..." if len(unlisted) > 3 else "")
        yield Fault(root, "files", f"{len(unlisted)} are not in the JSON: {some}", False)
