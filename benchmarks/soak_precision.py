"""Losses and gradients from logits of each floating type, beside those of float64."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from panoptic_lovasz.losses import cross_entropy_lovasz, lovasz_softmax

from .soak_kills import PROJECT

sys.path.insert(0, str(PROJECT / "tests" / "losses"))

import oracle

GRADIENT_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
NO_GRADIENT = torch.finfo(torch.float32).eps  # of saturated logits: less than the value's rounding
LOSS_SCALE = 2.0**16  # as of a GradScaler: without it gradients of float16 underflow


def run_precision(seed: int) -> Iterator[tuple[str, int, list[str], str]]:
    """Rows of the table, one a type: check, number tried, those that are not right, and remarks.

    Values are compared with the definition in float64, gradients, of which the binned ones have
    another definition, with those of the same logits in float64.
    """
    cases = _cases(seed)
    for dtype, tolerance in GRADIENT_TOLERANCES.items():
        worst = {"exact": 0.0, "binned": 0.0, "gradient": 0.0}
        others, tried = [], 0
        for (case, (logits, target)), (name, loss) in itertools.product(
            cases.items(), _LOSSES.items()
        ):
            tried += 1
            logits = logits.to(dtype)
            value, gradient = _value_and_gradient(loss.function, logits, target)
            expected = loss.definition(logits.double(), target)
            _, expected_gradient = _value_and_gradient(loss.function, logits.double(), target)
            error = ((value - expected).abs() / expected.clamp(min=1)).item()
            scale = expected_gradient.norm().clamp(min=NO_GRADIENT)
            gradient_error = ((gradient - expected_gradient).norm() / scale).item()
            kind = "exact" if name == "exact" else "binned"
            worst[kind] = max(worst[kind], error)
            worst["gradient"] = max(worst["gradient"], gradient_error)
            if not (error <= loss.tolerance and gradient_error <= tolerance):
                others.append(f"{case}, {name}: {error:.1g}, gradient {gradient_error:.1g}")
        remarks = (
            f"exact within {worst['exact']:.1g} (allowed {_EXACT:.0e}), binned within "
            f"{worst['binned']:.1g} ({_BINNED:.0e}), gradients within {worst['gradient']:.1g} "
            f"({tolerance:.0e})"
        )
        yield f"{str(dtype)[6:]} against float64", tried, others, remarks


@dataclasses.dataclass(frozen=True)
class _Loss:
    function: Callable[[Tensor, Tensor], Tensor]
    definition: Callable[[Tensor, Tensor], Tensor]
    tolerance: float  # of the value, relative if it is above 1


_EXACT, _BINNED = 1e-5, 1 / 1024
_LOSSES = {
    "fused": _Loss(
        lambda x, y: sum(cross_entropy_lovasz(x, y)),
        lambda x, y: sum(oracle.cross_entropy_lovasz(x, y)),
        _BINNED,
    ),
    "binned": _Loss(
        lambda x, y: lovasz_softmax(x, y[:, ::4, ::4]),
        lambda x, y: oracle.lovasz_softmax(x, y[:, ::4, ::4]),
        _BINNED,
    ),
    "exact": _Loss(
        lambda x, y: lovasz_softmax(x, y[:, ::4, ::4], method="exact"),
        lambda x, y: oracle.lovasz_softmax(x, y[:, ::4, ::4]),
        _EXACT,
    ),
}


def _cases(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits in float64 at stride 4, and labels, of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)

    def case(images, classes, height, width, scale):
        shape = (images, classes, height, width)
        logits = scale * torch.randn(shape, dtype=torch.float64, generator=generator)
        target = torch.randint(0, classes, (images, 4 * height, 4 * width), generator=generator)
        target[:, :1] = 255 if height > 1 else 0
        return logits, target

    return {
        "random": case(2, 19, 8, 12, 1),
        "confident": case(2, 19, 8, 12, 10),
        "up to 1e4": case(2, 19, 8, 12, 2.5e3),
        "all equal": case(2, 19, 8, 12, 0),
        "1024 classes": case(1, 1024, 4, 4, 1),
        "one pixel": case(1, 5, 1, 1, 1),
    }


def _value_and_gradient(loss, logits, target):
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    (LOSS_SCALE * value).backward()
    return value.detach().double(), logits.grad.double() / LOSS_SCALE
