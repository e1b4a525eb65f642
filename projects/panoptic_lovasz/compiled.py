"""Kernels compiled with numba (CPU) and Triton (CUDA): which there are, and how numba's are run.

They give what PyTorch's operators give, in less time and memory, and are used where their compiler
is installed and they do on this machine what they should.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import torch

__all__ = ["compiled_kernels", "in_threads", "jit"]

logger = logging.getLogger(__name__)

COMPILERS = {"cpu": "numba", "cuda": "triton"}
# Environment variable; "0" trusts the kernels without trying them first.
CHECK_VARIABLE = "PANOPTIC_LOVASZ_CHECK_KERNELS"

Check = Callable[[ModuleType, torch.device], bool]


def compiled_kernels(
    modules: str, device: torch.device, check: Check | None = None
) -> ModuleType | None:
    """The compiled kernels for a device, or ``None`` where PyTorch's operators have to do.

    Whatever is missing is told once in a process, by a warning.

    Args:
        modules: full name of the modules with the kernels, "{}" standing for the compiler's name:
            "numba" for the CPU, "triton" for CUDA.
        device: where the tensors are.
        check: runs the kernels on something small, once for each device, and tells whether they
            give what PyTorch gives; may raise, as kernels do that cannot be launched. It is left
            out while a graph is recorded.
    """
    kernels = _import(modules, device.type)
    if kernels is None or check is None or _is_recording(device):
        return kernels
    return kernels if _works(kernels, device, check) else None


@functools.cache
def _import(modules: str, device_type: str) -> ModuleType | None:
    compiler = COMPILERS.get(device_type)
    if compiler is None:
        _warn(f"There are no compiled kernels for {device_type!r} devices", "use the CPU or CUDA")
        return None
    try:
        importlib.import_module(compiler)
    except ImportError as error:
        _warn(f"{compiler} cannot be imported ({error})", f"pip install {compiler}")
        return None
    return importlib.import_module(modules.format(compiler))


@functools.cache
def _works(kernels: ModuleType, device: torch.device, check: Check) -> bool:
    if os.environ.get(CHECK_VARIABLE) == "0":
        return True
    try:
        # Whatever the caller is in the middle of, the kernels are tried in the plain state.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            reason = "" if check(kernels, device) else "give other results than PyTorch"
    except Exception as error:  # whatever stops a kernel from being built or launched
        reason = f"do not run: {type(error).__name__}: {str(error).strip() or 'no reason given'}"
    if reason:
        _warn(f"On {device} the kernels of {kernels.__name__} {reason}", _remedy(reason))
    return not reason


def _is_recording(device: torch.device) -> bool:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return True
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _remedy(reason: str) -> str:
    if "C compiler" in reason:
        return "install gcc, or name your C compiler in the environment variable CC"
    if torch.version.hip is not None:
        return "use a GPU by NVIDIA; these kernels are not made for ROCm"
    return "report it with the versions of PyTorch, numba and Triton"


@functools.cache
def _warn(problem: str, remedy: str) -> None:
    logger.warning(
        f"{problem}; PyTorch's operators take their place: the same results, but a loss or a merge "
        f"of predictions takes several times the time and memory. To mend it: {remedy}."
    )


def jit(function: Callable, fastmath: Set[str] = frozenset()) -> Callable:
    """Compile with numba, without the GIL, cached on disk where possible.

    Args:
        function: in numba's subset of Python.
        fastmath: LLVM's flags that allow it to change arithmetic; without any it is left alone.
    """
    import numba

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
