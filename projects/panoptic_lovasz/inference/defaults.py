"""What a predictor takes from a config: classes where the caller does not say them."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data import PanopticClasses
from ..errors import ConfigError, DatasetError

__all__ = ["check_panoptic", "class_counts", "classes_of_config"]

# Detectron2's architectures without a panoptic segmentation; those of others are not known.
_NOT_PANOPTIC = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "SemanticSegmentor")


def check_panoptic(cfg: CfgNode) -> None:
    """Check that the network gives panoptic segmentations.

    Raises:
        ConfigError: if it is known not to.
    """
    if cfg.MODEL.META_ARCHITECTURE in _NOT_PANOPTIC:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, which gives no panoptic "
            "segmentation, expected 'PanopticLovaszFPN' or another that does; Detectron2's "
            "DefaultPredictor predicts with it"
        )


def classes_of_config(cfg: CfgNode) -> PanopticClasses:
    """Those of the config's data sets, if one is registered and there, else numbered ones."""
    return _registered_classes(cfg) or _numbered_classes(cfg)


def class_counts(cfg: CfgNode) -> tuple[int, int]:
    """The numbers of thing classes and of semantic classes, the things being one of these."""
    return cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def _fit(classes: PanopticClasses, cfg: CfgNode) -> bool:
    return (classes.num_things, classes.num_semantic) == class_counts(cfg)


def _registered_classes(cfg: CfgNode) -> PanopticClasses | None:
    """Classes of the first data set in the config that is known here and has as many."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            classes = PanopticClasses.from_metadata(MetadataCatalog.get(name))
        except DatasetError:
            continue  # not known here, or not panoptic
        if _fit(classes, cfg):
            return classes
    return None


def _numbered_classes(cfg: CfgNode) -> PanopticClasses:
    """Classes with names such as "thing 3"."""
    num_things, num_semantic = class_counts(cfg)
    names = [(f"thing {i}", 1) for i in range(num_things)]
    names += [(f"stuff {i}", 0) for i in range(1, num_semantic)]
    return PanopticClasses.from_categories(
        [{"id": i, "name": n, "isthing": isthing} for i, (n, isthing) in enumerate(names, start=1)]
    )
