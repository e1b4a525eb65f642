"""The evaluators that a data set asks for."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)

from ..errors import ConfigError
from .ground_truth import PanopticGroundTruth
from .instance_evaluation import PanopticInstanceEvaluator
from .panoptic_evaluation import PanopticQualityEvaluator
from .pictures import EvaluationPictures
from .sem_seg_evaluation import PanopticSemSegEvaluator

__all__ = ["build_evaluator", "check_evaluators"]

_PANOPTIC = ("panoptic_lovasz", "coco_panoptic_seg", "cityscapes_panoptic_seg")
_OTHERS = ("coco", "sem_seg")


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluators:
    """Evaluators chosen by the metadata's ``evaluator_type``.

    Panoptic data sets, this project's and Detectron2's own: panoptic quality (``panoptic_seg``),
    semantic segmentation with things as one class (``sem_seg``), boxes and masks (``bbox``,
    ``segm``), all from the panoptic annotations; for a ``SemanticSegmentor`` ``sem_seg`` alone, for
    a ``GeneralizedRCNN`` boxes and masks.
    For "coco" and "sem_seg" Detectron2's evaluators.

    Args:
        cfg: its ``TEST.SAVE_PANOPTIC_PREDICTIONS`` writes the predictions out, its
            ``OUTPUT.NUM_PICTURES`` draws some of them.
        dataset_name: name of a registered data set.
        output_folder: for reports; by default ``inference/<dataset_name>`` in cfg.OUTPUT_DIR.

    Raises:
        ConfigError: the data set is of another type.
        DatasetError: the data set has no panoptic annotations.
    """
    output_folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    kind = _evaluator_type(dataset_name)
    if kind in _PANOPTIC:
        evaluators = _panoptic_evaluators(cfg, dataset_name, output_folder)
    elif kind == "coco":
        evaluators = [COCOEvaluator(dataset_name, output_dir=output_folder, use_fast_impl=False)]
    else:
        evaluators = [SemSegEvaluator(dataset_name, output_dir=output_folder)]
    return DatasetEvaluators(evaluators)


def check_evaluators(cfg: CfgNode) -> None:
    """Check that every data set of ``cfg.DATASETS.TEST`` is of a type that is evaluated here.

    Raises:
        ConfigError: if one is not.
    """
    for name in cfg.DATASETS.TEST:
        if name in DatasetCatalog:  # others are told of where they are looked for
            _evaluator_type(name)


def _evaluator_type(dataset_name: str) -> str:
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind in _PANOPTIC + _OTHERS:
        return kind
    raise ConfigError(
        f"DATASETS.TEST: '{dataset_name}' has the evaluator_type {kind!r}; expected one of "
        f"{', '.join(_PANOPTIC + _OTHERS)}. Set it: MetadataCatalog.get('{dataset_name}')"
        ".evaluator_type = ..., or override Trainer.build_evaluator"
    )


def _panoptic_evaluators(
    cfg: CfgNode, dataset_name: str, output_folder: str
) -> list[DatasetEvaluator]:
    gt = PanopticGroundTruth(dataset_name)
    semantic = PanopticSemSegEvaluator(dataset_name, output_dir=output_folder, ground_truth=gt)
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":  # it predicts nothing else
        return [semantic]
    instances = PanopticInstanceEvaluator(dataset_name, output_folder, ground_truth=gt)
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        return [instances]
    pictures = None
    if cfg.OUTPUT.NUM_PICTURES > 0:
        folder = Path(output_folder) / "pictures"
        pictures = EvaluationPictures(gt, folder, cfg.OUTPUT.NUM_PICTURES, cfg.OUTPUT.NUM_PICTURES)
    return [
        PanopticQualityEvaluator(
            dataset_name,
            output_folder,
            save_predictions=cfg.TEST.SAVE_PANOPTIC_PREDICTIONS,
            ground_truth=gt,
            pictures=pictures,
        ),
        semantic,
        instances,
    ]
