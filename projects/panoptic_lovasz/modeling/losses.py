"""Losses of the semantic head as modules, and the registry that the config picks them from.

A head takes one with ``self.loss = build_sem_seg_loss(cfg)`` and calls it with its logits before
upsampling: ``self.loss(logits, target)`` is a dict of scalars to add to the model's losses. To
keep a cross-entropy of its own (hard pixel mining, weights per pixel) it sets ``LOSS.CE_WEIGHT``
to 0 or names a loss that has the region term alone. Without a config the modules are made from
keyword arguments, see :class:`CrossEntropyLovaszLoss`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..losses.fused import fused_loss
from ..losses.labels import as_labels, balancing_weights, check_class_weights
from ..losses.lovasz import METHODS, lovasz_softmax
from ..losses.options import LossOptions
from .loss_config import check_loss_config

__all__ = [
    "SEM_SEG_LOSS_REGISTRY",
    "BalancedCrossEntropyLoss",
    "CrossEntropyDiceLoss",
    "CrossEntropyJaccardLoss",
    "CrossEntropyLoss",
    "CrossEntropyLovaszLoss",
    "CrossEntropyTverskyLoss",
    "LovaszSoftmaxLoss",
    "as_named",
    "build_sem_seg_loss",
]

SEM_SEG_LOSS_REGISTRY = Registry("SEM_SEG_LOSS")
SEM_SEG_LOSS_REGISTRY.__doc__ = """
Registry of losses of the semantic head, named by ``cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME``.

A registered class is made with the keyword arguments that its classmethod ``from_config(cfg)``
returns, or with ``cfg`` if it has none. Called with logits (B, C, h, w) and int64 labels
(B, h s, w s), where s is ``cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE``, it returns a dict of scalars,
or a single one; their names start with "loss" and are those that appear in the log.
"""


def as_named(losses: Tensor | Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """Losses by name; a single one gets the name that is given."""
    return {name: losses} if isinstance(losses, Tensor) else losses


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
        lovasz_weight: factor of the second term, whichever region loss it is.
        lovasz_start_iter: iteration before which that term is 0 and costs nothing.
        lovasz_ramp_iters: iterations in which its factor then grows linearly from 0 to 1.
            Iterations are those of Detectron2's active ``EventStorage``; without one the factor
            is 1.
        method: "binned" or "exact", see :func:`.lovasz.lovasz_softmax`; "exact" upsamples the
            logits in memory, and is for the Lovász loss only.
        global_batch: take the batches of all processes as one; the binned method only.
        class_weights: see :class:`.options.LossOptions`.
        **options: the other attributes of :class:`.options.LossOptions`, by name.

    Raises:
        ValueError: a value out of its range, or values that contradict each other.
    """

    region = "lovasz"
    terms: tuple[str, ...] = ("ce", "lovasz")
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        lovasz_weight: float = 1.0,
        lovasz_start_iter: int = 0,
        lovasz_ramp_iters: int = 0,
        method: str = "binned",
        global_batch: bool = False,
        class_weights: Sequence[float] | Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
        if method == "exact" and global_batch:
            raise ValueError('method "exact" takes no global_batch: sorted errors have no sum')
        if method == "exact" and self.region in self.terms and self.region != "lovasz":
            raise ValueError(f'method "exact" is for the Lovász loss, not for {self.region}')
        self.lovasz_start_iter = lovasz_start_iter
        self.lovasz_ramp_iters = lovasz_ramp_iters
        self.method = method
        self.global_batch = global_batch
        self.options = LossOptions.of(
            region=self.region,
            region_weight=lovasz_weight if self.region in self.terms else 0.0,
            **options,
        )
        if "ce" not in self.terms:
            self.options = self.options._replace(ce_weight=0.0)
        self.options.check()
        if class_weights is not None:
            class_weights = torch.as_tensor(class_weights, dtype=torch.float32)
            check_class_weights(class_weights.tolist())
        # Not persistent: checkpoints have the same keys whatever the loss.
        self.register_buffer("class_weights", class_weights, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Keyword arguments of the constructor, checked: keys of LOSS by their lower-case names."""
        head = cfg.MODEL.SEM_SEG_HEAD
        check_loss_config(head.LOSS, head.NUM_CLASSES, cls.region)
        known = {*LossOptions._fields, *(CrossEntropyLovaszLoss.__init__.__kwdefaults__ or ())}
        options = {key.lower(): value for key, value in head.LOSS.items() if key.lower() in known}
        return options | {
            "scale_factor": head.COMMON_STRIDE,
            "ignore_index": head.IGNORE_VALUE,
            "classes": "present" if head.LOSS.CLASSES is None else head.LOSS.CLASSES,
            "class_weights": head.LOSS.CLASS_WEIGHTS or None,
        }

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Logits (B, C, h, w) of any floating dtype, target (B, h s, w s) of any integer dtype."""
        group = _all_processes() if self.global_batch else None
        options = self.options._replace(
            region_weight=self.options.region_weight * self._ramp(),
            class_weights=self.class_weights,
            process_group=group,
        )
        compute = self._sorted if self.method == "exact" else fused_loss
        values = dict(zip(("ce", self.region), compute(logits, target, options), strict=True))
        return {f"loss_sem_seg_{term}": values[term] for term in self.terms}

    def batch_factors(self, batches: Sequence[Sequence[Tensor]]) -> dict[str, list[float]]:
        """Factors with which the mean of several batches' losses is the loss of all as one batch.

        Cross-entropy is a mean over labeled pixels, of which batches have different numbers. The
        Jaccard index of several batches is not a mean of theirs, so region losses have no factors.

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
        target = as_labels(target, self.options.ignore_index)
        labels = target[target != self.options.ignore_index]
        if self.class_weights is None:
            return float(labels.numel())
        weights = self.class_weights.to(labels.device, torch.float64)
        # a label out of range is the loss's to report
        return weights[labels.long().clamp(0, len(weights) - 1)].sum().item()

    def _ramp(self) -> float:
        """Factor of the region term at this iteration, in [0, 1]."""
        iteration = _iteration()
        if iteration is None:
            return 1.0
        done = iteration - self.lovasz_start_iter
        if done < 0 or self.lovasz_ramp_iters == 0:
            return float(done >= 0)
        return min(done / self.lovasz_ramp_iters, 1.0)

    def _sorted(
        self, logits: Tensor, target: Tensor, options: LossOptions
    ) -> tuple[Tensor, Tensor]:
        """The Lovász loss by its definition, of upsampled logits."""
        ce, lovasz = fused_loss(logits, target, options._replace(region_weight=0.0))
        if options.region_weight != 0:
            upsampled = F.interpolate(
                logits.float(),
                scale_factor=options.scale_factor,
                mode="bilinear",
                align_corners=False,
            )
            lovasz = options.region_weight * lovasz_softmax(
                upsampled,
                target,
                method="exact",
                ignore_index=options.ignore_index,
                classes=options.classes,
                per_image=options.per_image,
                class_weights=options.class_weights,
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


@SEM_SEG_LOSS_REGISTRY.register()
class CrossEntropyJaccardLoss(CrossEntropyLovaszLoss):
    """Cross-entropy plus the soft Jaccard loss, ``loss_sem_seg_jaccard``."""

    region = "jaccard"
    terms = ("ce", "jaccard")


@SEM_SEG_LOSS_REGISTRY.register()
class CrossEntropyDiceLoss(CrossEntropyLovaszLoss):
    """Cross-entropy plus the soft Dice loss, ``loss_sem_seg_dice``."""

    region = "dice"
    terms = ("ce", "dice")


@SEM_SEG_LOSS_REGISTRY.register()
class CrossEntropyTverskyLoss(CrossEntropyLovaszLoss):
    """Cross-entropy plus the Tversky loss, ``loss_sem_seg_tversky``."""

    region = "tversky"
    terms = ("ce", "tversky")


@SEM_SEG_LOSS_REGISTRY.register()
class BalancedCrossEntropyLoss(CrossEntropyLoss):
    """Cross-entropy in which every class of the batch weighs the same, however few its pixels.

    Returns ``loss_sem_seg_ce``: the mean over classes, weighted by ``class_weights``, of the mean
    over a class's pixels.
    """

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See :meth:`CrossEntropyLovaszLoss.forward`."""
        group = _all_processes() if self.global_batch else None
        weights = balancing_weights(target, logits.shape[1], self.options.ignore_index, group)
        if self.class_weights is not None:
            weights = weights * self.class_weights
        options = self.options._replace(class_weights=weights, process_group=group)
        return {"loss_sem_seg_ce": fused_loss(logits, target, options)[0]}

    def batch_factors(self, batches: Sequence[Sequence[Tensor]]) -> dict[str, list[float]]:
        """None: the mean over classes of several batches is not a mean of theirs."""
        return {}


def _iteration() -> int | None:
    """Iteration of Detectron2's active EventStorage, or None outside of training."""
    try:
        from detectron2.utils.events import get_event_storage

        return get_event_storage().iter
    except (ImportError, AssertionError, IndexError):  # IndexError: under python -O
        return None


def _all_processes() -> dist.ProcessGroup | None:
    """The group of all processes, or None if this one is alone."""
    from detectron2.utils import comm

    return dist.group.WORLD if comm.get_world_size() > 1 else None
