"""Pictures of an evaluation: a fixed set of images, and those predicted best and worst."""

from __future__ import annotations

import heapq
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data.images import read_image
from ..files import write_atomically, write_text
from ..visualization import draw_comparison
from ..visualization.guard import tolerate_errors
from .ground_truth import PanopticGroundTruth

__all__ = ["EvaluationPictures", "Picture", "read_pictures"]

_INDEX = "pictures.json"
_MAX_WIDTH = 2400  # pixels of three panels beside each other


class Picture(NamedTuple):
    """A picture in a folder: its kind is "fixed", "best" or "worst"; PQ in percent, or None."""

    kind: str
    file: Path
    image: str
    pq: float | None


class _Prediction(NamedTuple):
    pq: float  # in [0, 1]; NaN if neither map has a segment
    image_id: int | str
    file_name: str
    ids: np.ndarray
    segments: Sequence[Mapping[str, Any]]


class EvaluationPictures:
    """Collects, while images are evaluated, the few predictions that are drawn at the end.

    The fixed set is spread evenly over the data set and the same in every evaluation. The best and
    the worst are so by the PQ of the image alone: the mean over the categories that it shows or
    that are predicted in it.
    """

    def __init__(
        self, ground_truth: PanopticGroundTruth, folder: Path, num_fixed: int, num_extreme: int
    ):
        """
        Args:
            ground_truth: of the data set.
            folder: for the pictures and ``pictures.json``, which lists them.
            num_fixed: images in the fixed set.
            num_extreme: best images, and as many worst.
        """
        self._gt = ground_truth
        self._folder = folder
        self._num_extreme = min(num_extreme, len(ground_truth.annotations) // 2)
        ids = list(ground_truth.annotations)
        positions = np.linspace(0, len(ids) - 1, min(num_fixed, len(ids))).astype(int)
        self._fixed_ids = [ids[i] for i in positions.tolist()]
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._fixed: dict[int | str, _Prediction] = {}
        self._best: list[tuple[float, int, _Prediction]] = []  # heaps: the first is let go next
        self._worst: list[tuple[float, int, _Prediction]] = []
        self._count = 0

    def add(
        self,
        image: Mapping[str, Any],
        ids: np.ndarray,
        segments: Sequence[Mapping[str, Any]],
        pq: float,
    ) -> None:
        """Take notice of one image.

        Args:
            image: a model's input dict, with ``image_id`` and ``file_name``.
            ids, segments: the prediction, an (H, W) map of segment ids, and dicts of ``id`` and the
                data set's ``category_id``.
            pq: of this image, in [0, 1] or NaN.
        """
        self._count += 1
        prediction = _Prediction(pq, image["image_id"], image["file_name"], ids, segments)
        if image["image_id"] in self._fixed_ids:
            self._fixed[image["image_id"]] = prediction
        if self._num_extreme and not math.isnan(pq):
            for heap, key in ((self._best, pq), (self._worst, -pq)):
                item = (key, -self._count, prediction)  # the earlier of two alike stays
                if len(heap) < self._num_extreme:
                    heapq.heappush(heap, item)
                else:
                    heapq.heappushpop(heap, item)

    def state(self) -> tuple[list, list, list]:
        """What this process has kept: fixed, best and worst predictions."""
        best, worst = ([item[2] for item in heap] for heap in (self._best, self._worst))
        return list(self._fixed.values()), best, worst

    def write(self, states: Iterable[tuple[list, list, list]]) -> None:
        """Draw what all processes have kept; what fails is left out with a warning."""
        with tolerate_errors("pictures of the evaluation"):
            fixed, best, worst = (
                [p for part in parts for p in part] for parts in zip(*states, strict=True)
            )
            order = {image_id: i for i, image_id in enumerate(self._fixed_ids)}
            chosen = {
                "fixed": sorted(fixed, key=lambda p: order[p.image_id]),
                "best": sorted(best, key=lambda p: -p.pq)[: self._num_extreme],
                "worst": sorted(worst, key=lambda p: p.pq)[: self._num_extreme],
            }
            self._folder.mkdir(parents=True, exist_ok=True)
            index = []
            for kind, predictions in chosen.items():
                for n, prediction in enumerate(predictions, start=1):
                    with tolerate_errors("a picture of the evaluation"):
                        index.append(self._save(f"{kind}_{n}.jpg", kind, prediction))
            write_text(self._folder / _INDEX, json.dumps(index, indent=1))

    def _save(self, name: str, kind: str, prediction: _Prediction) -> dict[str, Any]:
        annotation = self._gt.annotations[prediction.image_id]
        picture = draw_comparison(
            read_image(prediction.file_name),
            [
                (
                    "ground truth",
                    annotation.read(),
                    self._segments_info(annotation.segments),
                ),
                ("prediction", prediction.ids, self._segments_info(prediction.segments)),
            ],
            self._gt.classes.metadata(),
        )
        image = Image.fromarray(picture)
        image.thumbnail((_MAX_WIDTH, _MAX_WIDTH))
        write_atomically(self._folder / name, lambda f: image.save(f, "JPEG", quality=88))
        pq = None if math.isnan(prediction.pq) else 100 * prediction.pq
        return {"kind": kind, "file": name, "image": _name(prediction.file_name), "PQ": pq}

    def _segments_info(self, segments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Segments with Detectron2's ``isthing`` and contiguous ``category_id``."""
        made = []
        for s in segments:
            isthing, category_id = self._gt.classes.from_dataset_id[s["category_id"]]
            made.append({**s, "isthing": isthing, "category_id": category_id})
        return made


def read_pictures(folder: str | os.PathLike) -> list[Picture]:
    """The pictures that an evaluation wrote into a folder; none if it wrote none."""
    index = Path(folder) / _INDEX
    if not index.is_file():
        return []
    return [
        Picture(entry["kind"], index.parent / entry["file"], entry["image"], entry["PQ"])
        for entry in json.loads(index.read_text())
    ]


def _name(file_name: str) -> str:
    """The last folder and the file: enough to tell images apart for a reader."""
    return "/".join(Path(file_name).parts[-2:])
