"""Memory of the network's layers on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator

__all__ = ["reuse_freed_memory"]

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4


@contextlib.contextmanager
def reuse_freed_memory() -> Iterator[None]:
    """Serve large tensors from freed memory; without effect where the C library is not glibc.

    By default glibc maps every block of more than 32 MB anew and unmaps it when it is freed, so
    that the system clears all its pages for every layer's output again.

    The setting holds for the whole process. Afterwards glibc is as it sets itself once a block of
    32 MB has been freed: larger blocks are mapped, and 64 MB of free memory are kept.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, 65536)
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 64 << 20)


@functools.cache
def _mallopt():
    if platform.libc_ver()[0] != "glibc":
        return None
    return getattr(ctypes.CDLL(None), "mallopt", None)
