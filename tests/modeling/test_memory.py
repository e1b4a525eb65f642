import threading

import torch

from panoptic_lovasz.modeling import memory
from panoptic_lovasz.modeling.memory import reuse_freed_memory

BLOCK = 96 << 20


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
