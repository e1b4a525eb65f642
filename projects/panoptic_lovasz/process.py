"""Settings of a process, which command lines make for their own; library code leaves them alone.

PyTorch reads them while it is loaded, so nothing here imports it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

__all__ = ["prepare_process"]

# A thread of OpenMP that waits spins this often before it sleeps, about 0.1 ms. By default it
# spins until its core is wanted elsewhere, and then keeps that one from working.
_SPIN_COUNT = "20000"
_OF_OPENMP = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
_OF_MALLOC = {
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
}
# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEPT_FREE = 2**30  # bytes


def prepare_process() -> None:
    """Set what the user has not set by environment variables; after PyTorch is loaded, nothing."""
    if "torch" in sys.modules:
        return
    if not _OF_OPENMP & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    if not _OF_MALLOC & os.environ.keys():
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc serve large tensors from memory freed before.

    By default it maps each block of more than 32 MB anew, and the system clears all its pages for
    every layer's output.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _KEPT_FREE)
