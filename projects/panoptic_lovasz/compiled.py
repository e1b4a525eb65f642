"""How the CPU kernels are compiled with numba and spread over threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Set
from concurrent.futures import ThreadPoolExecutor

import numba
import torch

__all__ = ["in_threads", "jit"]


def jit(function: Callable, fastmath: Set[str] = frozenset()) -> Callable:
    """Compile without the GIL, cached on disk where possible.

    Args:
        function: in numba's subset of Python.
        fastmath: LLVM's flags that allow it to change arithmetic; without any it is left alone.
    """
    options = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
    njit = functools.partial(numba.njit, **options)
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # no folder to cache in can be written: compile in every process
        return njit()(function)


def in_threads(function: Callable, items: Iterable, threads: int | None = None) -> None:
    """Call ``function`` on every item, on so many Python threads (as many as PyTorch uses)."""
    # Threads of a call's own: nothing survives that a later fork (a data loader) could trip over.
    threads = torch.get_num_threads() if threads is None else threads
    if threads <= 1:
        for item in items:
            function(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(function, items):  # asks for the results, so that errors surface
            pass
