"""How many operations a training step of the fused loss hands to the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from panoptic_lovasz.losses import cross_entropy_region, labels

ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty"}


class Operations(TorchDispatchMode):
    """Names of the operations of PyTorch but for allocations, and of kernels that are launched."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._opname not in ALLOCATIONS:
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def operations(monkeypatch):
    mode = Operations()
    for kind in (JITFunction, InterpretedFunction):
        launch = kind.run

        def counted(self, *args, launch=launch, **kwargs):
            mode.names.append(getattr(self, "__name__", "kernel"))
            with torch.utils._python_dispatch._disable_current_modes():  # the interpreter's own
                return launch(self, *args, **kwargs)

        monkeypatch.setattr(kind, "run", counted)
    return mode


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"classes": [0, 2], "class_weights": [1.0, 2.0, 0.5, 1.0]},
        {"per_image": True, "region": "tversky", "class_weights": [1.0, 2.0, 0.5, 1.0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("global_batch", [False, True])
def test_a_step_of_the_fused_loss_is_a_dozen_operations_at_most(
    options, global_batch, operations, second_process, monkeypatch
):
    if global_batch:
        options = options | {"process_group": second_process[0]}
    # As on a GPU: constants are there, and the labels are checked in the backward pass.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    monkeypatch.setattr(labels, "_constant", labels._cached_constant)
    logits = torch.randn(2, 4, 2, 3, device=device, requires_grad=True)
    target = torch.randint(4, (2, 2, 3), device=device)
    options = options | {"impl": "triton", "scale_factor": 1}

    def step():
        ce, region = cross_entropy_region(logits, target, **options)
        return torch.autograd.backward([ce, region], [torch.ones_like(ce)] * 2)

    step()
    monkeypatch.setattr("panoptic_lovasz.losses.operator.check_labels", lambda *_: None)
    logits.grad = None
    operations.names.clear()
    with operations:
        step()
    # The check's copy of the two extreme labels to the host is one more, there on a GPU alone.
    not_counted = ("ones_like", "detach", "copy_")
    names = [name for name in operations.names if name not in not_counted]
    assert names[-1] == "gradient_kernel"  # no operator hides what it does
    assert len(names) + 1 <= 12, " ".join(names)
