"""COCO's panoptic submission format: one JSON of segments beside a folder of id PNGs."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ..data.classes import PanopticClasses
from ..data.coco_panoptic import read_coco_panoptic_json
from ..data.fields import check_field, check_file_name, read_json
from ..data.id_map import read_panoptic_png
from ..data.paths import Folder
from ..errors import DatasetError
from ..files import write_text
from .panoptic_quality import PanopticQuality

__all__ = ["evaluate_submission", "write_submission_json"]

logger = logging.getLogger(__name__)

_CHUNK = 50  # images per task of a process
_FIELDS = {"image_id": (int, str), "file_name": (str,), "segments_info": (list,)}


class _Pair(NamedTuple):
    """Ground truth and prediction of an image; the ground truth's JSON tells the size of both."""

    gt_png: str
    gt_segments: list[dict[str, Any]]
    png: str
    segments: list[dict[str, Any]]
    size: tuple[int, int] | None


def evaluate_submission(
    pred_json: str | os.PathLike,
    gt_json: str | os.PathLike,
    pred_dir: str | os.PathLike | None = None,
    gt_dir: str | os.PathLike | None = None,
    *,
    boundaries: bool = False,
    follow_links: bool = False,
    num_workers: int | None = None,
    progress: bool = True,
) -> PanopticQuality:
    """Compare two sets of files in the COCO panoptic format, as panopticapi's ``pq_compute`` does.

    Args:
        pred_json: JSON with a list ``annotations`` of {image_id, file_name, segments_info}.
        gt_json: the ground truth's panoptic JSON.
        pred_dir, gt_dir: folders of the PNGs; by default the JSON's path without its suffix.
        boundaries: look at boundaries, too: Boundary PQ, and mIoU away from boundaries. Takes
            twice the time.
        follow_links: let symbolic links lead out of the two folders.
        num_workers: processes; by default one per core.
        progress: show a progress bar if stderr is a terminal.

    Raises:
        DatasetError: a file is missing or not what it should be, an image has no prediction, or a
            PNG and its segments disagree.
    """
    pred_json, gt_json = Path(pred_json), Path(gt_json)
    pred_dir = Path(pred_dir) if pred_dir else pred_json.with_suffix("")
    gt_dir = Path(gt_dir) if gt_dir else gt_json.with_suffix("")
    for folder in (pred_dir, gt_dir):
        if not folder.is_dir():
            raise DatasetError(f"the folder of PNGs {folder} does not exist")
    content = read_coco_panoptic_json(gt_json)
    PanopticClasses.from_categories(content["categories"], str(gt_json))  # names what is wrong
    sizes = {
        image["id"]: (image["width"], image["height"])
        for image in content["images"]
        if isinstance(image, dict) and {"id", "width", "height"} <= image.keys()
    }
    truths_in, predictions_in = (Folder(folder, follow_links) for folder in (gt_dir, pred_dir))
    pairs = [
        _Pair(
            _find(truth, truths_in, gt_json),
            truth["segments_info"],
            _find(prediction, predictions_in, pred_json),
            prediction["segments_info"],
            sizes.get(truth["image_id"]),
        )
        for truth, prediction in _paired(content["annotations"], gt_json, pred_json)
    ]
    chunks = [pairs[i : i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    quality = PanopticQuality(content["categories"], boundaries)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(pairs), desc="PQ", disable=None if progress else True)
        )
        evaluate = functools.partial(_evaluate_chunk, content["categories"], boundaries)
        if num_workers != 1 and len(chunks) > 1:
            parts = stack.enter_context(ProcessPoolExecutor(num_workers)).map(evaluate, chunks)
        else:
            parts = map(evaluate, chunks)
        for part in parts:
            quality.merge(part)
            bar.update(part.num_images)
    return quality


def _evaluate_chunk(
    categories: Sequence[dict[str, Any]], boundaries: bool, chunk: Sequence[_Pair]
) -> PanopticQuality:
    quality = PanopticQuality(categories, boundaries)
    quality.add_batch(
        (
            pair.gt_png,  # names the image, wherever a submission has its PNGs
            read_panoptic_png(pair.gt_png, pair.size),
            pair.gt_segments,
            read_panoptic_png(pair.png, pair.size),
            pair.segments,
        )
        for pair in chunk
    )
    return quality


def write_submission_json(path: str | os.PathLike, annotations: Sequence[dict[str, Any]]) -> None:
    """Write the JSON of a submission, whose PNGs are written already."""
    write_text(path, json.dumps({"annotations": list(annotations)}))


def _find(annotation: dict[str, Any], folder: Folder, json_file: Path) -> str:
    name = check_file_name(annotation, f"{json_file}: image_id {annotation['image_id']!r}")
    return folder.find_png(name, json_file)


def _paired(
    gt_annotations: Sequence[Any], gt_json: Path, pred_json: Path
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Ground truth and prediction of every image of the ground truth."""
    truths = _by_image(gt_annotations, gt_json)
    predictions = _by_image(_read_annotations(pred_json), pred_json)
    missing = truths.keys() - predictions.keys()
    if missing:
        raise DatasetError(
            f"{pred_json}: {len(missing)} of {len(truths)} images have no prediction, for instance "
            f"image_id {min(missing, key=str)!r}"
        )
    if len(predictions) > len(truths):
        logger.warning(
            f"{pred_json}: {len(predictions) - len(truths)} predictions are of images that "
            f"{gt_json} lacks; they are left out"
        )
    return [(truth, predictions[image_id]) for image_id, truth in truths.items()]


def _read_annotations(path: Path) -> list[Any]:
    content = read_json(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise DatasetError(f"{path}: expected an object with a list 'annotations'")
    return annotations


def _by_image(annotations: Sequence[Any], path: Path) -> dict[int | str, dict[str, Any]]:
    by_image = {}
    for n, annotation in enumerate(annotations):
        where = f"{path}: annotations[{n}]"
        for field, types in _FIELDS.items():
            check_field(annotation, field, types, where)
        if annotation["image_id"] in by_image:
            raise DatasetError(
                f"{path}: image_id {annotation['image_id']!r} is annotated more than once"
            )
        by_image[annotation["image_id"]] = annotation
    return by_image
