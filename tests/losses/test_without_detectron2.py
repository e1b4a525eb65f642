"""The losses need PyTorch alone."""

import subprocess
import sys

PROGRAM = """
import sys
for name in ("detectron2", "fvcore", "iopath", "pycocotools", "numba", "triton", "yacs"):
    sys.modules[name] = None  # importing it is an ImportError
import torch
from panoptic_lovasz.losses import cross_entropy_lovasz, lovasz_hinge, lovasz_softmax
logits = torch.randn(2, 3, 4, 4, requires_grad=True)
target = torch.randint(0, 3, (2, 16, 16))
sum(cross_entropy_lovasz(logits, target)).backward()
assert logits.grad.any()
assert 0 < lovasz_softmax(logits, target[:, ::4, ::4]).item() < 1
assert lovasz_hinge(logits[:, 0], target[:, ::4, ::4] > 0).item() > 0
try:
    from panoptic_lovasz.losses import CrossEntropyLovaszLoss
except ImportError:
    print("modules need Detectron2")
"""


def test_the_losses_are_computed_where_nothing_but_pytorch_is_installed():
    command = [sys.executable, "-W", "error::ImportWarning", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "modules need Detectron2\n"
    warnings = [line for line in done.stderr.splitlines() if "numba cannot be imported" in line]
    assert len(warnings) == 1  # the same results, but slower: told once
