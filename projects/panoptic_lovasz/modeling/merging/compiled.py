"""How the compiled CPU kernels of merging are built and spread over threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numba
import torch

__all__ = ["in_threads", "jit"]


def jit(function: Callable) -> Callable:
    """Compile without the GIL and without reordering arithmetic, cached on disk where possible."""
    njit = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # no folder to cache in can be written: compile in every process
        return njit()(function)


def in_threads(function: Callable, items: Iterable) -> None:
    """Call ``function`` on every item, on as many Python threads as PyTorch uses."""
    # Threads of a call's own: nothing survives that a later fork (a data loader) could trip over.
    threads = torch.get_num_threads()
    if threads == 1:
        for item in items:
            function(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(function, items):
            pass
