import sys
from pathlib import Path

import pytest
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))  # `from oracle import ...` in the tests beside it


@pytest.fixture(params=["the same images", "no labels"])
def second_process(request, monkeypatch):
    """As if there was a second process, with the same images or with images without labels.

    Yields the group of both, and what this one's gradients are multiplied by before their mean
    over the processes is taken.
    """
    same = request.param == "the same images"

    def all_reduce(tensor, group):
        assert group == "both"
        tensor.mul_(2 if same else 1)

    monkeypatch.setattr(dist, "get_world_size", lambda group="both": {"both": 2}[group])
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    dist.group.WORLD = "both"
    yield "both", 1 if same else 2
    dist.group.WORLD = None
