"""Check a COCO instances JSON: what is wrong with it, and what a conversion would make of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from ...errors import DatasetError
from ..coco_instances import CocoInstances, InstanceChoices
from ..fault import Fault
from ..id_map import find_segments
from ..instance_painter import InstancePainter
from .check import CheckReport, unlisted_files
from .files import ImageFindings, check_image
from .statistics import Statistics

__all__ = ["check_coco_instances"]


def check_coco_instances(
    json_file: str | os.PathLike,
    images: str | os.PathLike,
    *,
    progress: bool = True,
    **choices: Any,
) -> CheckReport:
    """Read a COCO instances JSON and its images whole, and report what converting them would give.

    Errors are what ``convert_coco_instances`` refuses; warnings say what it leaves out, and which
    option makes something else of it.

    Args:
        json_file: the instances JSON.
        images: folder of the images.
        progress: show a progress bar if stderr is a terminal.
        choices: as for ``convert_coco_instances``.

    Raises:
        DatasetError: if the file is not a COCO instances JSON.
    """
    coco = CocoInstances(json_file, images, InstanceChoices(**choices))
    painter = InstancePainter(coco)
    # of categories with one id, which are a fault already, the first
    statistics = Statistics(list({c["id"]: c for c in reversed(coco.categories)}.values()))
    faults = list(coco.faults)
    hidden = None if progress else True  # None: shown if stderr is a terminal
    for image in tqdm(coco.images, "checking", disable=hidden, unit="image"):
        found = ImageFindings()
        file = coco.files[image["id"]]
        faults += [Fault(file, *fault) for fault in _check(image, painter, found)]
        statistics.add(found)
    faults += painter.summary()
    faults += unlisted_files(images, coco.files.values())
    return CheckReport(faults, {}, {}, statistics)


def _check(
    image: dict[str, Any], painter: InstancePainter, found: ImageFindings
) -> Iterator[tuple[str, str, bool]]:
    try:
        painted = painter.paint(image)
    except DatasetError as error:
        yield "annotations", str(error), True
        return
    yield from check_image(painted.file, painted.header.size, found)
    segments = find_segments(painted.id_map)
    found.areas = dict(zip(segments.ids.tolist(), segments.areas.tolist(), strict=True))
    found.segments = [s for s in painted.segments if s["id"] in found.areas]
