"""Where Detectron2 is not installed: in one other process, which cannot find it."""

import subprocess
import sys

PROGRAM = """
import importlib.abc
import importlib.util
import sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("detectron2", "fvcore"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "detectron2" else find_spec(name)
sys.meta_path.insert(0, Hide())

import torch
import panoptic_lovasz
from panoptic_lovasz.losses import cross_entropy_lovasz, lovasz_softmax

logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
target = torch.zeros(1, 16, 16, dtype=torch.int64)
ce, lovasz = cross_entropy_lovasz(logits, target, scale_factor=4, impl="torch")
(ce + lovasz).backward()
print("gradient", bool(logits.grad.abs().sum() > 0))
uses = [
    lambda: panoptic_lovasz.Trainer,
    lambda: panoptic_lovasz.load_config,
    lambda: panoptic_lovasz.LovaszSemSegFPNHead,
    lambda: importlib.import_module("panoptic_lovasz.inference"),
    lambda: importlib.import_module("panoptic_lovasz.checkpoint"),
    lambda: importlib.import_module("panoptic_lovasz.model_zoo").find_model,
]
for use in uses:
    try:
        use()
    except ModuleNotFoundError as error:
        print("error", error)
"""


def test_the_losses_work_and_all_else_says_what_is_missing():
    outcome = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    first, *errors = outcome.stdout.splitlines()
    assert first == "gradient True"
    assert len(errors) == 6
    for error in errors:
        assert "needs Detectron2, 0.6 or newer" in error and "make setup" in error, error
