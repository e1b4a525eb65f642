"""The fused loss in PyTorch, numba and Triton."""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

import torch

from ...compiled import compiled_kernels
from ..options import LossOptions
from ..passes import TwoPasses

__all__ = ["choose", "load"]


@torch.compiler.assume_constant_result
def choose(impl: str, device: torch.device) -> str:
    """The implementation to take, see :attr:`.LossOptions.impl`: "auto" becomes another name.

    Raises:
        ValueError: for "triton" on the CPU, unless Triton interprets its kernels.
    """
    if impl == "triton" and device.type == "cpu" and os.getenv("TRITON_INTERPRET") != "1":
        raise ValueError('impl is "triton", which needs a GPU, but the logits are on the CPU')
    if impl != "auto":
        return impl
    kernels = compiled_kernels(f"{__name__}.{{}}_impl", device, agree)
    return "torch" if kernels is None else kernels.__name__.split(".")[-1].removesuffix("_impl")


@functools.cache
def load(impl: str) -> ModuleType | TwoPasses:
    """The implementation of a name other than "auto": what has the methods of ``TwoPasses``."""
    return _implementation(importlib.import_module(f".{impl}_impl", __name__))


def _implementation(kernels: ModuleType) -> ModuleType | TwoPasses:
    # Some kernels do all of it, the others what there is to do per pixel.
    return kernels if hasattr(kernels, "forward") else TwoPasses(kernels)


def agree(kernels: ModuleType, device: torch.device) -> bool:
    """Whether losses and gradients of a small batch are what they are in PyTorch."""
    shape = (2, 3, 3, 5)
    logits = torch.arange(90.0, device=device).mul(1.7).sin().mul(3).view(shape)
    target = torch.arange(2 * 12 * 20, device=device).view(2, 12, 20) // 7 % 5
    factor = torch.ones((), device=device)
    options = LossOptions(ignore_index=4, num_bins=64, per_image=True)
    results = []
    for implementation in (_implementation(kernels), load("torch")):
        ce, region, extremes, saved = implementation.forward(logits, target, options)
        gradient = implementation.backward(factor, factor, logits, target, saved, options)
        results.append((ce, region, extremes, gradient))
    # Softmaxes that are rounded otherwise move a few pixels to the next bin.
    return all(
        torch.allclose(found.double(), expected.double(), rtol=1e-3, atol=1e-4)
        for found, expected in zip(*results, strict=True)
    )
