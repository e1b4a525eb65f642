import ctypes
import platform
import subprocess
import sys
import threading

import pytest
import torch

from panoptic_lovasz.modeling import memory
from panoptic_lovasz.modeling.memory import reuse_freed_memory

BLOCK = 96 << 20
# In a process of its own, whose memory no other test has parted into pieces.
COUNT_PAGES = f"""
import resource, torch
from panoptic_lovasz.modeling.memory import reuse_freed_memory

def pages_mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones({BLOCK}, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = pages_mapped()
with reuse_freed_memory():
    inside = pages_mapped()
print(outside, inside, pages_mapped())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="needs glibc",
)
def test_a_freed_block_is_used_again_inside_and_given_back_outside():
    run = subprocess.run(
        [sys.executable, "-c", COUNT_PAGES], capture_output=True, text=True, check=True
    )
    outside, inside, afterwards = map(int, run.stdout.split())
    assert inside < outside / 2
    assert afterwards > outside / 2


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
