"""The losses that a comparison knows by name, as changes of a config."""

from __future__ import annotations

from typing import Any

__all__ = ["LOSSES"]

_LOSS = "MODEL.SEM_SEG_HEAD.LOSS"

# What each name changes in a config; a None stands for half of SOLVER.MAX_ITER.
LOSSES: dict[str, dict[str, Any]] = {
    "ce": {f"{_LOSS}.NAME": "CrossEntropyLoss"},
    "ce-balanced": {f"{_LOSS}.NAME": "BalancedCrossEntropyLoss"},
    "ce+jaccard": {f"{_LOSS}.NAME": "CrossEntropyJaccardLoss"},
    "ce+dice": {f"{_LOSS}.NAME": "CrossEntropyDiceLoss"},
    "ce+tversky": {f"{_LOSS}.NAME": "CrossEntropyTverskyLoss"},
    "lovasz": {f"{_LOSS}.NAME": "LovaszSoftmaxLoss"},
    "ce+lovasz": {f"{_LOSS}.NAME": "CrossEntropyLovaszLoss"},
    "ce-then-lovasz": {
        f"{_LOSS}.NAME": "CrossEntropyLovaszLoss",
        f"{_LOSS}.LOVASZ_START_ITER": None,
    },
    "ce+lovasz-per-image": {
        f"{_LOSS}.NAME": "CrossEntropyLovaszLoss",
        f"{_LOSS}.PER_IMAGE": True,
    },
    "ce+lovasz-equibatch": {
        f"{_LOSS}.NAME": "CrossEntropyLovaszLoss",
        "DATALOADER.SAMPLER_TRAIN": "EquiBatchSampler",
    },
}
