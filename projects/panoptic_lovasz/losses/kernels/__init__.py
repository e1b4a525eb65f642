"""The two passes over the logits, `count` and `weigh`, in PyTorch, numba and Triton."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from ...compiled import compiled_kernels
from ..counters import unpack
from ..options import LossOptions
from . import torch_impl

__all__ = ["choose", "load"]


@torch.compiler.assume_constant_result
def choose(impl: str, device: torch.device) -> str:
    """The implementation to take, see :attr:`.LossOptions.impl`: "auto" becomes another name."""
    if impl != "auto":
        return impl
    kernels = compiled_kernels(f"{__name__}.{{}}_impl", device, agree)
    return "torch" if kernels is None else kernels.__name__.split(".")[-1].removesuffix("_impl")


def load(impl: str) -> ModuleType:
    """The module with the passes of an implementation other than "auto"."""
    return importlib.import_module(f".{impl}_impl", __name__)


def agree(kernels: ModuleType, device: torch.device) -> bool:
    """Whether both passes give what they give in PyTorch, on a small batch."""
    shape = (2, 3, 3, 5)
    logits = torch.arange(90.0, device=device).mul(1.7).sin().mul(3).view(shape)
    target = torch.arange(2 * 12 * 20, device=device).view(2, 12, 20) // 7 % 5
    active = torch.ones(2, 3, dtype=torch.bool, device=device)
    weights = torch.linspace(0.1, 1, 2 * 3 * 2 * 64, device=device).view(2, 3, 2, 64)
    factor = torch.ones((), device=device)
    options = LossOptions(ignore_index=4, num_bins=64, per_image=True)
    results = []
    for module in (kernels, torch_impl):
        counters, sums, saved = module.count(logits, target, active, options)
        gradient = module.weigh(logits, target, saved, active, weights, factor, factor, options)
        counts, errors = unpack(counters)
        results.append((counts.sum(-1), errors.sum(-1), sums, gradient))
    # Softmaxes that are rounded otherwise move a few pixels to the next bin.
    return all(
        torch.allclose(found.double(), expected.double(), rtol=1e-3, atol=1e-2)
        for found, expected in zip(*results, strict=True)
    )
