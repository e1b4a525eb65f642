"""The options of the fused loss: one value that functions, modules and kernels hand on whole."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from .labels import check_classes

__all__ = ["IMPLEMENTATIONS", "REGIONS", "LossOptions"]

IMPLEMENTATIONS = ("auto", "torch", "numba", "triton")
REGIONS = ("lovasz", "jaccard", "dice", "tversky")


class LossOptions(NamedTuple):
    """What :func:`.fused.cross_entropy_region` computes.

    Attributes:
        scale_factor: s, factor of the bilinear upsampling of the logits with
            ``align_corners=False``; 1 for none.
        ignore_index: label of pixels that count in neither term; may lie inside [0, C).
        ce_weight: factor of the cross-entropy.
        region: the other term, see :mod:`.regions`: "lovasz", "jaccard", "dice" or "tversky".
        region_weight: factor of the region term; with 0 it is not computed.
        classes: average the region term over the classes "present" in the ground truth (of the
            group), over "all", or over a list of classes, present or not.
        per_image: average the region term over the images that have a label, instead of taking
            the batch as one image.
        num_bins: K, bins of the errors of a class.
        class_weights: (C,), a list will do; not negative: weights of the classes, as in
            ``F.cross_entropy`` and in the mean of the region term over classes; None weighs all
            alike.
        tversky_alpha: weight of false positives in "tversky".
        tversky_beta: weight of false negatives in "tversky".
        process_group: take the batches of all its processes as one batch. The mean over the
            processes of the returned values, and of the gradients (what
            ``DistributedDataParallel`` takes), equals one process on the concatenated batch.
        impl: "torch", "numba" (CPU), "triton" (CUDA), or "auto": the compiled one for the
            logits' device if its package is installed, else "torch".
    """

    scale_factor: int = 4
    ignore_index: int = 255
    ce_weight: float = 1.0
    region: str = "lovasz"
    region_weight: float = 1.0
    classes: str | Sequence[int] = "present"
    per_image: bool = False
    num_bins: int = 1024
    class_weights: Tensor | None = None
    tversky_alpha: float = 0.3
    tversky_beta: float = 0.7
    process_group: dist.ProcessGroup | None = None
    impl: str = "auto"

    @classmethod
    def of(cls, **options: Any) -> LossOptions:
        """Options by name.

        Raises:
            TypeError: there is no such option.
        """
        for name in options:
            if name not in cls._fields:
                near = difflib.get_close_matches(name, cls._fields, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(cls._fields)}"
                raise TypeError(f"there is no option {name!r}; {hint}")
        return cls(**options)

    def check(self) -> None:
        """Raise a ValueError for an option out of its range that does not depend on the logits."""
        for name in ("scale_factor", "num_bins"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or value < 1 or value % 1 != 0:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        for name in ("ce_weight", "region_weight", "tversky_alpha", "tversky_beta"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real):  # a tensor would get no gradient
                raise ValueError(f"{name} must be a number, not {value!r}")
        if self.region not in REGIONS:
            raise ValueError(f"region must be one of {', '.join(REGIONS)}, not {self.region!r}")
        if self.impl not in IMPLEMENTATIONS:
            expected = ", ".join(IMPLEMENTATIONS)
            raise ValueError(f"impl must be one of {expected}, not {self.impl!r}")
        check_classes(self.classes)
        for name in ("tversky_alpha", "tversky_beta"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{name} must be a number not below 0, not {weight}")
