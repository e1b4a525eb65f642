import ctypes
import platform
import resource
import threading

import pytest
import torch

from panoptic_lovasz.modeling import memory
from panoptic_lovasz.modeling.memory import reuse_freed_memory

BLOCK = 96 << 20


def _pages_mapped(times):
    """Pages that the system hands out while a block is allocated, written and freed so often."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="needs glibc",
)
def test_a_freed_block_is_used_again_inside_and_given_back_outside():
    pages = BLOCK // resource.getpagesize()
    assert _pages_mapped(times=4) > 3.9 * pages
    with reuse_freed_memory():
        assert _pages_mapped(times=4) < 1.5 * pages
    assert _pages_mapped(times=4) > 2.9 * pages  # the first time it may get what was kept


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_mallopt", lambda: None)
    with reuse_freed_memory():
        assert torch.ones(BLOCK, dtype=torch.uint8).sum() == BLOCK


def test_threads_may_enter_and_leave_at_any_time():
    results = []

    def work():
        for _ in range(20):
            with reuse_freed_memory():
                results.append(torch.ones(1 << 20).sum().item())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [float(1 << 20)] * 80
