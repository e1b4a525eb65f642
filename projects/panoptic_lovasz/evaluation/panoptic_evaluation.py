"""Detectron2 evaluator of panoptic predictions, without temporary files."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.id_map import label_runs, write_panoptic_png
from ..errors import DatasetError
from .ground_truth import PanopticGroundTruth
from .panoptic_quality import PanopticQuality
from .pictures import EvaluationPictures
from .report import format_report, panoptic_metrics, write_report
from .submission import write_submission_json

__all__ = ["PanopticQualityEvaluator"]

logger = logging.getLogger(__name__)


class PanopticQualityEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ from the model's output and the ground-truth PNGs, accumulated in memory.

    The figures are those of Detectron2's ``COCOPanopticEvaluator`` under the same keys, and more:
    see :func:`~panoptic_lovasz.evaluation.report.panoptic_metrics`. Of an image some numbers for
    each category in it are kept; with ``save_predictions`` also its list of segments.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike | None = None,
        distributed: bool = True,
        save_predictions: bool = False,
        *,
        ground_truth: PanopticGroundTruth | None = None,
        pictures: EvaluationPictures | None = None,
    ):
        """Read the annotations of a registered data set.

        Args:
            dataset_name: name of a data set in the COCO panoptic format: registered by this
                project or one of Detectron2's own.
            output_dir: folder for ``panoptic_quality.json``, ``panoptic_quality.csv`` (per class),
                ``confusion_matrix.csv`` (pixels), ``per_image.csv`` and ``image_counts.npz``.
            distributed: gather the results of all processes; else evaluate each by itself.
            save_predictions: also write ``panoptic_predictions/*.png`` and
                ``panoptic_predictions.json`` into output_dir, in COCO's submission format.
            ground_truth: the data set's ground truth if it has been read already.
            pictures: is shown every prediction with the PQ of its image, and draws some of them.

        Raises:
            DatasetError: the data set has no panoptic ground truth.
            ValueError: save_predictions without output_dir.
        """
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._predictions: Path | None = None  # folder of the PNGs if they are to be saved
        if save_predictions:
            if self._output_dir is None:
                raise ValueError("save_predictions needs an output_dir")
            self._predictions = self._output_dir / "panoptic_predictions"
        self._gt = ground_truth or PanopticGroundTruth(dataset_name)
        self._distributed = distributed
        self._pictures = pictures
        self._dataset_ids = {
            kind: dataset_id for dataset_id, kind in self._gt.classes.from_dataset_id.items()
        }
        classes = self._gt.classes
        self._unified_ids = {
            **dict(zip(classes.stuff_segment_ids, classes.stuff_dataset_ids, strict=True)),
            **dict(zip(classes.thing_segment_ids, classes.thing_dataset_ids, strict=True)),
        }
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._quality = PanopticQuality(self._gt.classes.categories)
        self._saved: list[dict[str, Any]] = []
        if self._pictures is not None:
            self._pictures.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Add a batch.

        Args:
            inputs: dicts with ``image_id`` and ``file_name``.
            outputs: dicts whose ``panoptic_seg`` is (map, segments_info): an (H, W) integer tensor
                and dicts of ``id``, ``category_id`` and ``isthing``, where category_id is
                0..T-1 for things and 1..S for stuff, as Detectron2's Panoptic FPN returns them.
                Without ``isthing`` it is the data set's own category id. segments_info may be None:
                then pixels are ``category * label_divisor + instance`` with the category ids of the
                dataset dicts, and -1 is void, as Panoptic-DeepLab returns them.

        Raises:
            DatasetError: naming the image, if prediction and data set do not belong together.
        """
        for image, output in zip(inputs, outputs, strict=True):
            name = str(image.get("file_name", f"image {image['image_id']}"))
            ids, segments = self._prediction(output["panoptic_seg"], name)
            annotation = self._gt.annotation(image)
            pair = (self._gt.id_map(image), annotation.segments, ids, segments)
            of_image = self._quality.add(*pair, name=name)
            if self._pictures is not None:
                self._pictures.add(image, ids, segments, of_image.pq())
            if self._predictions is not None:
                png = self._save(self._predictions, annotation.png, ids)
                self._saved.append(
                    {"image_id": image["image_id"], "file_name": png, "segments_info": segments}
                )

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Results of all processes, in the main one; {} in the others.

        Returns:
            {"panoptic_seg": {"PQ": ..., "SQ": ..., "RQ": ..., "PQ_th": ..., ...}} in percent.
        """
        drawn = None if self._pictures is None else self._pictures.state()
        parts = [(self._quality, self._saved, drawn)]
        if self._distributed:
            comm.synchronize()
            parts = comm.gather(parts[0])
            if not comm.is_main_process():
                return OrderedDict()
        quality = PanopticQuality(self._gt.classes.categories)
        for part, _, _ in parts:
            quality.merge(part)
        if quality.num_images != len(self._gt.annotations):
            logger.warning(
                f"{quality.num_images} images were evaluated; the data set '{self._gt.name}' has "
                f"{len(self._gt.annotations)}"
            )
        metrics = panoptic_metrics(quality)
        logger.info(format_report(quality, metrics))
        if self._output_dir is not None:
            write_report(quality, metrics, self._output_dir)
        if self._predictions is not None:
            saved = [annotation for _, annotations, _ in parts for annotation in annotations]
            write_submission_json(self._predictions.with_suffix(".json"), saved)
        if self._pictures is not None:
            self._pictures.write(drawn for _, _, drawn in parts if drawn is not None)
        return OrderedDict(panoptic_seg=metrics)

    def _prediction(
        self, panoptic_seg: tuple[torch.Tensor, list[dict] | None], name: str
    ) -> tuple[np.ndarray, list[dict[str, int]]]:
        """Segment ids (H, W), 0 for void, and segments with the data set's category ids."""
        id_map, segments_info = panoptic_seg
        ids = torch.as_tensor(id_map).to(torch.int32).cpu().numpy()
        if segments_info is None:
            return ids + 1, self._segments_of_labels(ids, name)
        segments = [
            {"id": int(s["id"]), "category_id": self._dataset_id(s, name)} for s in segments_info
        ]
        return ids, segments

    def _segments_of_labels(self, labels: np.ndarray, name: str) -> list[dict[str, int]]:
        """Segments of a map of category * label_divisor + instance; their id is the label + 1."""
        divisor = self._gt.metadata.get("label_divisor")
        if divisor is None:
            raise DatasetError(
                f"{name}: a prediction without segments_info needs label_divisor in the metadata "
                f"of '{self._gt.name}'"
            )
        segments = []
        for label in np.unique(label_runs(labels).values).tolist():
            if label == -1:
                continue
            if label // divisor not in self._unified_ids:
                raise DatasetError(
                    f"{name}: predicted label {label} is of category {label // divisor}; "
                    f"'{self._gt.name}' has {sorted(self._unified_ids)}"
                )
            segments.append({"id": label + 1, "category_id": self._unified_ids[label // divisor]})
        return segments

    def _dataset_id(self, segment: Mapping[str, Any], name: str) -> int:
        class_id = int(segment["category_id"])
        if "isthing" not in segment:
            return class_id
        isthing = bool(segment["isthing"])
        if (isthing, class_id) not in self._dataset_ids:
            classes = self._gt.classes
            raise DatasetError(
                f"{name}: predicted segment {segment['id']} has category_id {class_id} and isthing "
                f"{isthing}; '{self._gt.name}' has things 0..{classes.num_things - 1} and stuff "
                f"1..{classes.num_semantic - 1}"
            )
        return self._dataset_ids[isthing, class_id]

    def _save(self, folder: Path, gt_png: str, ids: np.ndarray) -> str:
        """Write the PNG of a prediction, named like the ground truth's; its path in the folder."""
        png, root = Path(gt_png), self._gt.metadata.get("panoptic_root")
        png = png.relative_to(root) if root and png.is_relative_to(root) else Path(png.name)
        target = folder / png
        target.parent.mkdir(parents=True, exist_ok=True)
        write_panoptic_png(target, ids)
        return png.as_posix()
