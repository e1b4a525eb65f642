"""The rules by which instances and stuff become one panoptic segmentation."""

from __future__ import annotations

import dataclasses

from detectron2.config import CfgNode

__all__ = ["CombineRules"]


@dataclasses.dataclass(frozen=True)
class CombineRules:
    """``MODEL.PANOPTIC_FPN.COMBINE`` of a config: the attributes are its keys in lower case.

    Attributes:
        overlap_thresh: an instance is dropped if a greater share of it is taken already, in [0, 1].
        stuff_area_limit: stuff of fewer pixels is dropped.
        instances_confidence_thresh: instances of a lower score are left out, in [0, 1].
        void_labels: semantic labels that are never stuff; their pixels stay 0.
        confidence_aware: a pixel goes to its stuff class instead of its instance where the class's
            softmax probability exceeds score times mask probability by more than ``margin``.
        margin: in [0, 1].
    """

    overlap_thresh: float = 0.5
    stuff_area_limit: float = 4096
    instances_confidence_thresh: float = 0.5
    void_labels: tuple[int, ...] = ()
    confidence_aware: bool = False
    margin: float = 0.3

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CombineRules:
        """The rules of a config to which ``add_panoptic_lovasz_config`` has been applied."""
        combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
        values = {field.name: combine[field.name.upper()] for field in dataclasses.fields(cls)}
        return cls(**values | {"void_labels": tuple(combine.VOID_LABELS)})

    @property
    def are_detectron2s(self) -> bool:
        """Whether Detectron2's own merging knows all of them."""
        return not self.void_labels and not self.confidence_aware
