"""The fused loss around an implementation's two passes over the pixels, in PyTorch's operators."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor

from .counters import unpack
from .labels import class_shares
from .options import LossOptions
from .regions import region_loss

__all__ = ["TwoPasses"]


@dataclasses.dataclass(frozen=True)
class TwoPasses:
    """An implementation of the fused loss.

    Attributes:
        passes: a module with the functions of :mod:`.kernels.torch_impl`.
    """

    passes: ModuleType

    def new_saved(self, logits: Tensor, options: LossOptions) -> list[Tensor]:
        """Tensors like those that :meth:`forward` hands on to :meth:`backward`."""
        num_images, num_classes = logits.shape[:2]
        num_groups = num_images if options.per_image else 1
        pixels = self.passes.saved_shape(logits, options)
        bins = (num_groups, num_classes, 2, options.num_bins)
        return [
            logits.new_empty(pixels, dtype=torch.float32),
            logits.new_empty((num_groups, num_classes), dtype=torch.bool),
            logits.new_empty(bins, dtype=torch.float32),
            logits.new_empty((), dtype=torch.float64),
        ]

    def forward(
        self, logits: Tensor, target: Tensor, options: LossOptions
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Losses, and what their gradient takes.

        Returns:
            - cross-entropy and region loss, 0-dim float32;
            - the smallest and the largest label, ignored ones taken as 0, (2,) int64: at least
              those outside [0, C), which count as ignored;
            - tensors as :meth:`new_saved` makes them.
        """
        num_images, num_classes = logits.shape[:2]
        num_groups = num_images if options.per_image else 1
        with torch.autocast(logits.device.type, enabled=False):
            extremes, present = self.passes.read_labels(
                target, num_classes, options.ignore_index, num_groups
            )
            if options.region_weight == 0:
                shares = torch.zeros(num_groups, num_classes, device=logits.device)
            else:
                shares = _shares(present, options)
            active = shares > 0
            counters, ce_sums, pixels = self.passes.count(logits, target, active, options)
            ce, region, weights, ce_scale = _terms(counters, ce_sums, shares, options)
        return ce, region, extremes, [pixels, active, weights, ce_scale]

    def backward(
        self,
        ce_gradient: Tensor | None,
        region_gradient: Tensor | None,
        logits: Tensor,
        target: Tensor,
        saved: list[Tensor],
        options: LossOptions,
    ) -> Tensor:
        """Gradient with respect to the logits.

        Args:
            ce_gradient, region_gradient: 0-dim float32, the gradients with respect to the losses;
                None for 0.
        """
        pixels, active, weights, ce_scale = saved
        nothing = torch.zeros((), device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            ce = nothing if ce_gradient is None else (ce_gradient * ce_scale).float()
            region = nothing if region_gradient is None else region_gradient.float()
            return self.passes.weigh(logits, target, pixels, active, weights, ce, region, options)


def _terms(
    counters: Tensor, ce_sums: Tensor, shares: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both losses, derivative of the region loss by bin, factor of the cross-entropy's slope."""
    group = options.process_group
    num_processes = 1 if group is None else dist.get_world_size(group)
    if options.region_weight == 0:
        (ce_sums,) = _sum_over_processes(group, ce_sums)
        region = ce_sums.new_zeros(())
        weights = torch.zeros_like(counters, dtype=torch.float32)
    else:
        counts, errors = unpack(counters)
        if options.per_image:
            (ce_sums,) = _sum_over_processes(group, ce_sums)
        else:
            counts, errors, ce_sums = _sum_over_processes(group, counts, errors, ce_sums)
        region, weights = region_loss(counts, errors, shares, options)
        region = region * options.region_weight
        # Images are this process's own; the classes of a batch are everyone's.
        region = region * (num_processes if options.per_image else 1)
        weights = (weights * (options.region_weight * num_processes)).float()
        # Counters cannot hold a NaN; the sum of the cross-entropy saw the same softmax.
        region = torch.where(ce_sums[0].isnan(), ce_sums[0], region)
    denominator = torch.where(ce_sums[1] > 0, ce_sums[1], 1)
    ce = options.ce_weight * ce_sums[0] / denominator
    ce_scale = options.ce_weight * num_processes / denominator
    return ce.float(), region.float(), weights, ce_scale


def _shares(present: Tensor, options: LossOptions) -> Tensor:
    """Share of each group's class in the loss, (G, C) float64; adds up to 1 over all processes."""
    if options.per_image:
        (num_labeled,) = _sum_over_processes(options.process_group, present.any(1).sum())
    else:
        (present,) = _sum_over_processes(options.process_group, present)
        present = present > 0
        num_labeled = present.any().double()
    shares = class_shares(present, options.classes, options.class_weights)
    return shares / num_labeled.clamp(min=1)


def _sum_over_processes(process_group: dist.ProcessGroup | None, *tensors: Tensor) -> list[Tensor]:
    """Sum of each tensor over the processes, float64: exact for the counters' integers."""
    if process_group is None:
        return [tensor.double() for tensor in tensors]
    flat = torch.cat([tensor.double().flatten() for tensor in tensors])
    dist.all_reduce(flat, group=process_group)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
