"""Semantic evaluation of the semantic head against the panoptic ground truth."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.evaluation import SemSegEvaluator

from ..data.classes import IGNORE_LABEL
from ..errors import DatasetError
from ..files import write_text
from .ground_truth import PanopticGroundTruth

__all__ = ["PanopticSemSegEvaluator"]


class PanopticSemSegEvaluator(SemSegEvaluator):
    """Detectron2's ``SemSegEvaluator`` without semantic PNGs: things are collapsed to one class.

    The ground truth is derived from the panoptic PNGs in memory; void and crowd are ignored. Only
    the confusion matrix is kept, not the predictions. The metrics are Detectron2's: ``mIoU``,
    ``fwIoU``, ``mACC``, ``pACC`` and ``IoU-<name>``, ``ACC-<name>``, under ``sem_seg``.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | os.PathLike | None = None,
        *,
        ground_truth: PanopticGroundTruth | None = None,
    ):
        """Read the annotations of a registered data set.

        Args:
            dataset_name: name of a data set in the COCO panoptic format.
            distributed: sum over all processes; else evaluate each by itself.
            output_dir: folder for ``sem_seg_evaluation.json``.
            ground_truth: the data set's ground truth if it has been read already.
        """
        # The base class's constructor reads sem_seg_file_name, which these data sets lack; the
        # attributes that its other methods use are set here, for Detectron2 0.6 and main.
        self._gt = ground_truth or PanopticGroundTruth(dataset_name)
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = None  # the base class would write the predictions there
        self._class_names = list(self._gt.classes.stuff_classes)
        self._num_classes = self._gt.classes.num_semantic
        self._ignore_label = IGNORE_LABEL
        self._compute_boundary_iou = False
        self._report = None if output_dir is None else Path(output_dir) / "sem_seg_evaluation.json"
        self.reset()

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Add a batch.

        Args:
            inputs: dicts with ``image_id`` and ``file_name``.
            outputs: dicts with ``sem_seg``, the logits or scores (1 + S, H, W).

        Raises:
            DatasetError: if classes or size are not those of the data set.
        """
        for image, output in zip(inputs, outputs, strict=True):
            scores, truth = output["sem_seg"], self._gt.semantic_map(image)
            expected = (self._num_classes, *truth.shape)
            if tuple(scores.shape) != expected:
                raise DatasetError(
                    f"{image['file_name']}: sem_seg is {tuple(scores.shape)}, expected {expected}: "
                    f"the semantic classes of '{self._dataset_name}', and the size of its image"
                )
            pred = scores.argmax(dim=0).cpu().numpy()
            truth[truth == IGNORE_LABEL] = self._num_classes
            side = self._num_classes + 1
            pairs = np.bincount((side * pred + truth).ravel(), minlength=side * side)
            self._conf_matrix += pairs.reshape(side, side)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"sem_seg": metrics in percent} in the main process, None in the others."""
        results = super().evaluate()
        if results and self._report is not None:
            values = {k: None if np.isnan(v) else float(v) for k, v in results["sem_seg"].items()}
            self._report.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._report, json.dumps(values, indent=1))
        return results
