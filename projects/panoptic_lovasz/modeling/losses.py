"""Losses of the semantic head as modules, and the registry that the config picks them from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses.fused import IMPLEMENTATIONS, cross_entropy_lovasz
from ..losses.labels import check_labels
from ..losses.lovasz import METHODS, lovasz_softmax

__all__ = [
    "SEM_SEG_LOSS_REGISTRY",
    "CrossEntropyLoss",
    "CrossEntropyLovaszLoss",
    "LovaszSoftmaxLoss",
    "build_sem_seg_loss",
]

_Group = dist.ProcessGroup | None

SEM_SEG_LOSS_REGISTRY = Registry("SEM_SEG_LOSS")
SEM_SEG_LOSS_REGISTRY.__doc__ = """
Registry of losses of the semantic head, named by ``cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME``.

A registered class is made with the keyword arguments that its classmethod ``from_config(cfg)``
returns, or with ``cfg`` if it has none. Called with logits (B, C, h, w) and int64 labels
(B, h s, w s), where s is ``cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE``, it returns a dict of scalars;
their names start with "loss" and are those that appear in the log.
"""


def build_sem_seg_loss(cfg: Any) -> nn.Module:
    """Make the loss that ``cfg.MODEL.SEM_SEG_HEAD.LOSS`` describes.

    Raises:
        ConfigError: a value out of its range, or values that contradict each other.
    """
    loss = SEM_SEG_LOSS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME)
    return loss(**loss.from_config(cfg)) if hasattr(loss, "from_config") else loss(cfg)


@SEM_SEG_LOSS_REGISTRY.register()
class CrossEntropyLovaszLoss(nn.Module):
    """Cross-entropy plus Lovász-Softmax, from logits at the stride of the semantic head.

    Returns ``loss_sem_seg_ce`` and ``loss_sem_seg_lovasz``, 0-dim float32.

    Args:
        scale_factor: s, the factor of the bilinear upsampling of the logits to the labels.
        ignore_index: label of pixels that do not count.
        ce_weight: factor of the cross-entropy.
        lovasz_weight: factor of the Lovász loss.
        lovasz_start_iter: iteration before which the Lovász loss is 0 and costs nothing.
        lovasz_ramp_iters: iterations in which its factor then grows linearly from 0 to 1.
            Iterations are those of Detectron2's active ``EventStorage``; without one the factor
            is 1.
        method: "binned" or "exact", see :func:`.lovasz.lovasz_softmax`.
        fused: never store upsampled logits; the binned method only.
        global_batch: take the batches of all processes as one; the binned method only.
        classes, per_image, num_bins, class_weights, impl: see
            :func:`.fused.cross_entropy_lovasz`.
    """

    terms: tuple[str, ...] = ("ce", "lovasz")
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        scale_factor: int = 4,
        ignore_index: int = 255,
        ce_weight: float = 1.0,
        lovasz_weight: float = 1.0,
        lovasz_start_iter: int = 0,
        lovasz_ramp_iters: int = 0,
        classes: str | Sequence[int] = "present",
        per_image: bool = False,
        method: str = "binned",
        num_bins: int = 1024,
        global_batch: bool = False,
        class_weights: Sequence[float] | Tensor | None = None,
        fused: bool = True,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.ignore_index = ignore_index
        self.ce_weight = ce_weight if "ce" in self.terms else 0.0
        self.lovasz_weight = lovasz_weight if "lovasz" in self.terms else 0.0
        self.lovasz_start_iter = lovasz_start_iter
        self.lovasz_ramp_iters = lovasz_ramp_iters
        self.classes = classes
        self.per_image = per_image
        self.method = method
        self.num_bins = num_bins
        self.global_batch = global_batch
        self.fused = fused
        self.impl = impl
        if class_weights is not None:
            class_weights = torch.as_tensor(class_weights, dtype=torch.float32)
        # Not persistent: checkpoints have the same keys whatever the loss.
        self.register_buffer("class_weights", class_weights, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Keyword arguments of the constructor, checked."""
        head = cfg.MODEL.SEM_SEG_HEAD
        _check_config(head.LOSS, head.NUM_CLASSES)
        return {
            "scale_factor": head.COMMON_STRIDE,
            "ignore_index": head.IGNORE_VALUE,
            "ce_weight": head.LOSS.CE_WEIGHT,
            "lovasz_weight": head.LOSS.LOVASZ_WEIGHT,
            "lovasz_start_iter": head.LOSS.LOVASZ_START_ITER,
            "lovasz_ramp_iters": head.LOSS.LOVASZ_RAMP_ITERS,
            "classes": "present" if head.LOSS.CLASSES is None else head.LOSS.CLASSES,
            "per_image": head.LOSS.PER_IMAGE,
            "method": head.LOSS.METHOD,
            "num_bins": head.LOSS.NUM_BINS,
            "global_batch": head.LOSS.GLOBAL_BATCH,
            "class_weights": head.LOSS.CLASS_WEIGHTS or None,
            "fused": head.LOSS.FUSED,
            "impl": head.LOSS.IMPL,
        }

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Logits (B, C, h, w) of any floating dtype, target (B, h s, w s) of any integer dtype."""
        compute = self._from_low_resolution if self._is_fused else self._from_full_resolution
        group = _all_processes() if self.global_batch else None
        losses = compute(logits, target, self.lovasz_weight * self._ramp(), group)
        values = dict(zip(("ce", "lovasz"), losses, strict=True))
        return {f"loss_sem_seg_{term}": values[term] for term in self.terms}

    def batch_factors(self, batches: Sequence[Sequence[Tensor]]) -> dict[str, list[float]]:
        """Factors with which the mean of several batches' losses is the loss of all as one batch.

        Cross-entropy is a mean over labeled pixels, of which batches have different numbers. The
        Jaccard index of several batches is no mean of theirs, so its loss has no factors.

        Args:
            batches: labels of every image of every batch, (H, W) each, any integer dtype.

        Returns:
            Loss name -> a factor for each batch, on average 1.
        """
        if "ce" not in self.terms:
            return {}
        weights = [sum(self._labeled_weight(t) for t in targets) for targets in batches]
        if self.global_batch and _all_processes() is not None:
            from detectron2.utils import comm

            weights = [sum(column) for column in zip(*comm.all_gather(weights), strict=True)]
        mean = sum(weights) / len(weights) or 1.0
        return {"loss_sem_seg_ce": [weight / mean for weight in weights]}

    def _labeled_weight(self, target: Tensor) -> float:
        """Number of labeled pixels, each times the weight of its class."""
        labels = target[target != self.ignore_index]
        if self.class_weights is None:
            return float(labels.numel())
        weights = self.class_weights.to(labels.device, torch.float64)
        # a label out of range is the loss's to report
        return weights[labels.long().clamp(0, len(weights) - 1)].sum().item()

    @property
    def _is_fused(self) -> bool:
        return self.fused and self.method == "binned"

    def _ramp(self) -> float:
        """Factor of the Lovász loss at this iteration, in [0, 1]."""
        iteration = _iteration()
        if iteration is None:
            return 1.0
        done = iteration - self.lovasz_start_iter
        if done < 0 or self.lovasz_ramp_iters == 0:
            return float(done >= 0)
        return min(done / self.lovasz_ramp_iters, 1.0)

    def _from_low_resolution(
        self, logits: Tensor, target: Tensor, lovasz_weight: float, group: _Group
    ) -> tuple[Tensor, Tensor]:
        return cross_entropy_lovasz(
            logits,
            target,
            scale_factor=self.scale_factor,
            ignore_index=self.ignore_index,
            ce_weight=self.ce_weight,
            lovasz_weight=lovasz_weight,
            classes=self.classes,
            per_image=self.per_image,
            num_bins=self.num_bins,
            class_weights=self.class_weights,
            process_group=group,
            impl=self.impl,
        )

    def _from_full_resolution(
        self, logits: Tensor, target: Tensor, lovasz_weight: float, group: _Group
    ) -> tuple[Tensor, Tensor]:
        logits = F.interpolate(
            logits.float(), scale_factor=self.scale_factor, mode="bilinear", align_corners=False
        )
        nothing = logits.flatten()[:0].sum()  # 0 that keeps the graph, for parallel training
        ce = lovasz = nothing
        if self.ce_weight != 0:
            ce = self.ce_weight * _cross_entropy(
                logits, target, self.ignore_index, self.class_weights, group
            )
        if lovasz_weight != 0:
            lovasz = lovasz_weight * lovasz_softmax(
                logits,
                target,
                ignore_index=self.ignore_index,
                classes=self.classes,
                per_image=self.per_image,
                method=self.method,
                num_bins=self.num_bins,
                class_weights=self.class_weights,
                process_group=group,
            )
        return ce, lovasz


@SEM_SEG_LOSS_REGISTRY.register()
class LovaszSoftmaxLoss(CrossEntropyLovaszLoss):
    """Lovász-Softmax alone: returns ``loss_sem_seg_lovasz``. ``ce_weight`` has no effect."""

    terms = ("lovasz",)


@SEM_SEG_LOSS_REGISTRY.register()
class CrossEntropyLoss(CrossEntropyLovaszLoss):
    """Cross-entropy alone: returns ``loss_sem_seg_ce``. Options of the other have no effect."""

    terms = ("ce",)


def _cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    class_weights: Tensor | None,
    group: _Group,
) -> Tensor:
    """``F.cross_entropy``, but 0 and not NaN where every label is ignored."""
    num_classes = logits.shape[1]
    check_labels(target, num_classes, ignore_index)
    counts = (target != ignore_index) & (target >= 0) & (target < num_classes)
    target = target.long().masked_fill(~counts, ignore_index)
    total = F.cross_entropy(
        logits, target, class_weights, ignore_index=ignore_index, reduction="sum"
    )
    weights = counts if class_weights is None else class_weights[target.clamp(0, num_classes - 1)]
    denominator = (weights * counts).sum().float()
    if group is not None:
        dist.all_reduce(denominator, group=group)
        total = total * dist.get_world_size(group)  # the mean over processes divides by it
    return total / torch.where(denominator > 0, denominator, 1)


def _iteration() -> int | None:
    """Iteration of Detectron2's active EventStorage, or None outside of training."""
    try:
        from detectron2.utils.events import get_event_storage

        return get_event_storage().iter
    except (ImportError, AssertionError, IndexError):  # IndexError: under python -O
        return None


def _all_processes() -> _Group:
    """The group of all processes, or None if this one is alone."""
    from detectron2.utils import comm

    return dist.group.WORLD if comm.get_world_size() > 1 else None


def _check_config(loss: Any, num_classes: int) -> None:
    """Raise a ConfigError if a value of ``cfg.MODEL.SEM_SEG_HEAD.LOSS`` cannot be used."""
    weights, classes = list(loss.CLASS_WEIGHTS), loss.CLASSES
    if classes is None or isinstance(classes, str):
        valid_classes = classes in (None, "present", "all")
    else:
        valid_classes = len(classes) > 0 and len(set(classes)) == len(classes)
        valid_classes &= all(isinstance(c, int) and 0 <= c < num_classes for c in classes)
    last = num_classes - 1
    for key, valid, expected in (
        ("CE_WEIGHT", _is_weight(loss.CE_WEIGHT), "a number not below 0"),
        ("LOVASZ_WEIGHT", _is_weight(loss.LOVASZ_WEIGHT), "a number not below 0"),
        ("LOVASZ_START_ITER", loss.LOVASZ_START_ITER >= 0, "an iteration not below 0"),
        ("LOVASZ_RAMP_ITERS", loss.LOVASZ_RAMP_ITERS >= 0, "a number not below 0"),
        ("CLASSES", valid_classes, f'"present", "all" or a list of ids from 0 to {last}'),
        ("METHOD", loss.METHOD in METHODS, " or ".join(f'"{method}"' for method in METHODS)),
        ("NUM_BINS", loss.NUM_BINS >= 1, "a positive number"),
        ("IMPL", loss.IMPL in IMPLEMENTATIONS, f"one of {', '.join(IMPLEMENTATIONS)}"),
        (
            "CLASS_WEIGHTS",
            not weights or (len(weights) == num_classes and all(map(_is_weight, weights))),
            f"nothing, or one number not below 0 for each of the {num_classes} classes "
            "(MODEL.SEM_SEG_HEAD.NUM_CLASSES)",
        ),
        (
            "GLOBAL_BATCH",
            not (loss.GLOBAL_BATCH and loss.METHOD == "exact"),
            'False with METHOD "exact": sorted errors cannot be summed over processes',
        ),
    ):
        if not valid:
            found = getattr(loss, key)
            raise ConfigError(f"MODEL.SEM_SEG_HEAD.LOSS.{key} is {found!r}, expected {expected}")


def _is_weight(value: float) -> bool:
    return math.isfinite(value) and value >= 0
