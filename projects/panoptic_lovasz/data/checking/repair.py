"""Write a repaired copy of a data set, where the repair is certain."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from ...files import replacing, write_text
from ..fields import check_file_name
from ..id_map import VOID, read_panoptic_png, write_panoptic_png
from ..paths import Folder
from .check import CheckReport

__all__ = ["repair_coco_panoptic"]


def repair_coco_panoptic(
    report: CheckReport,
    json_file: str | os.PathLike,
    panoptic: str | os.PathLike,
    *,
    follow_links: bool = False,
) -> tuple[Path, Path]:
    """Write NAME.fixed.json and, if a PNG has unknown ids, FOLDER.fixed beside the originals.

    Areas and boxes are taken from the PNGs, segments without a pixel are left out, and pixels
    whose id no segment has become void. Everything else stays as it is.

    Args:
        report: of a check of these files.
        json_file: the original JSON, which is not touched.
        panoptic: the original folder of PNGs, which is not touched.
        follow_links: as for the check.

    Returns:
        The JSON written, and the folder of PNGs that belongs to it.

    Raises:
        DatasetError: if a repaired copy exists already.
    """
    json_file, panoptic = Path(json_file), Path(panoptic)
    fixed_json = json_file.with_suffix(".fixed.json")
    fixed_panoptic = panoptic.with_name(f"{panoptic.name}.fixed")
    needs_pngs = any(found.unknown_ids for found in report.findings.values())
    for path in (fixed_json, fixed_panoptic) if needs_pngs else (fixed_json,):
        if path.exists():
            raise DatasetError(f"{path} exists already: remove it to have it written anew")
    content = {**report.content, "annotations": list(report.content["annotations"])}
    folder = Folder(panoptic, follow_links)
    for n, found in report.findings.items():
        annotation = content["annotations"][n]
        segments = [_repair_segment(s, found.areas, found.boxes) for s in found.segments]
        name = folder.relative(annotation["file_name"])
        content["annotations"][n] = {**annotation, "file_name": name, "segments_info": segments}
    if needs_pngs:
        _write_pngs(report, folder, fixed_panoptic)
    write_text(fixed_json, json.dumps(content))
    return fixed_json, fixed_panoptic if needs_pngs else panoptic


def _repair_segment(segment: dict[str, Any], areas: dict, boxes: dict) -> dict[str, Any]:
    return {**segment, "area": areas[segment["id"]], "bbox": boxes[segment["id"]]}


def _write_pngs(report: CheckReport, panoptic: Folder, fixed: Path) -> None:
    with replacing(fixed) as partial:
        for n, annotation in enumerate(report.content["annotations"]):
            try:
                name = check_file_name(annotation, "")
                file, target = panoptic.find(name), partial / panoptic.relative(name)
            except (DatasetError, FileNotFoundError):  # one of the errors that were reported
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            found = report.findings.get(n)
            if found is None or not found.unknown_ids:
                shutil.copy2(file, target)
                continue
            ids = read_panoptic_png(file)
            write_panoptic_png(target, np.where(np.isin(ids, found.unknown_ids), VOID, ids))
