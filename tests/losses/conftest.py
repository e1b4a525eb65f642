import sys
from pathlib import Path

import pytest
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))  # `from oracle import ...` in the tests beside it


@pytest.fixture
def two_processes(monkeypatch):
    """As if a second process had the same images: whatever processes add up doubles."""

    def all_reduce(tensor, group):
        assert group == "both"
        tensor.mul_(2)

    monkeypatch.setattr(dist, "get_world_size", lambda group="both": 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    dist.group.WORLD = "both"
    yield "both"
    dist.group.WORLD = None
