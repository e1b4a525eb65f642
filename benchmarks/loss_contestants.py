"""What ``benchmarks.loss`` compares: inputs, losses, and the definition in float64."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from panoptic_lovasz.losses import cross_entropy_region, lovasz_softmax

from .common import installed_version

IGNORED = 255
BASELINE = "interpolate + CE"
PEER = f"{BASELINE} + sorted Lovász (segmentation-models-pytorch)"
EXACT = f"{BASELINE} + exact Lovász (ours)"
SORTED = (PEER, EXACT)
OTHER_REGIONS = ("jaccard", "dice", "tversky")
SOFT_JACCARD = f"{BASELINE} + soft Jaccard in plain PyTorch"

Losses = tuple[Tensor, Tensor | None]  # cross-entropy, and the region loss if it is computed


@dataclass(frozen=True)
class Workload:
    """A batch: low-resolution logits (B, C, h, w) and labels (B, h s, w s).

    With ``points`` the pixels of a single image, (N, C) and (N,).
    """

    name: str
    images: int
    classes: int
    height: int
    width: int
    scale_factor: int = 4
    present: int | None = None  # classes that occur; all of them by default
    trained: bool = False
    points: bool = False

    def make(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Logits and labels, the same on every device.

        The labels are smooth regions: of each pixel the largest of a low-pass-filtered normal
        field per class; one pixel in 20, in blobs, is ignored. The logits are independent
        standard normal numbers, the hardest case for a sort as for counting, since errors spread
        over all bins; with ``trained`` 8 is added to the label's logit, blurred by the pooling to
        low resolution: mostly right and sure of it, wrong along borders.
        """
        generator = torch.Generator().manual_seed(0)
        size = self.height * self.scale_factor, self.width * self.scale_factor

        def field():
            coarse = torch.randn(self.images, 1, 12, 16, generator=generator)
            return F.interpolate(coarse, size=size, mode="bicubic")[:, 0]

        present = torch.randperm(self.classes, generator=generator)[: self.present]
        target = torch.zeros(self.images, *size, dtype=torch.int64)
        largest = torch.full((self.images, *size), -torch.inf)
        for c in present.tolist():
            values = field()
            target[values > largest] = c
            largest = largest.maximum(values)
        shape = (self.images, self.classes, self.height, self.width)
        logits = torch.randn(shape, generator=generator)
        if self.trained:
            for c in present.tolist():
                logits[:, c] += 8 * F.avg_pool2d((target == c).float(), self.scale_factor)
        ignored = field()
        target[ignored > ignored.flatten()[::97].quantile(0.95)] = IGNORED
        if self.points:
            logits, target = logits[0].flatten(1).t().contiguous(), target.flatten()
        return logits.to(device), target.to(device)

    def __str__(self) -> str:
        if self.points:
            return f"{self.name}: {self.height * self.width} points, C {self.classes}"
        s = self.scale_factor
        return (
            f"{self.name}: B {self.images}, C {self.classes}, {self.height}x{self.width} -> "
            f"{self.height * s}x{self.width * s}, {'trained-like' if self.trained else 'random'} "
            "logits"
        )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("coco", 2, 54, 200, 304),
        Workload("coco-trained", 2, 54, 200, 304, trained=True),
        Workload("ade", 2, 150, 128, 128),
        Workload("cityscapes", 2, 19, 128, 256),
        Workload("camvid", 8, 9, 90, 120),
        Workload("wide", 1, 512, 64, 64),
        Workload("points", 1, 20, 120, 1000, scale_factor=1, points=True),
    )
}


def contestants(device: torch.device, scale_factor: int = 4) -> dict[str, Callable | None]:
    """Losses to compare by name, ``f(logits, target) -> Losses``; None: not installed."""

    def upsample(logits: Tensor) -> Tensor:
        return _upsample(logits, scale_factor)

    def cross_entropy(logits: Tensor, target: Tensor) -> Losses:
        return F.cross_entropy(upsample(logits), target, ignore_index=IGNORED), None

    def with_lovasz(loss: Callable) -> Callable:
        def both(logits: Tensor, target: Tensor) -> Losses:
            upsampled = upsample(logits)
            ce = F.cross_entropy(upsampled, target, ignore_index=IGNORED)
            return ce, loss(upsampled, target)

        return both

    def fused(impl: str, region: str = "lovasz") -> Callable:
        options = {"scale_factor": scale_factor, "ignore_index": IGNORED}
        return lambda logits, target: cross_entropy_region(
            logits, target, region=region, impl=impl, **options
        )

    sorted_lovasz = None
    if installed_version("segmentation-models-pytorch"):
        sorted_lovasz = with_lovasz(lambda logits, target: _peer()(*_as_image(logits, target)))
    compiled = _compiler(device)
    available = _importable(compiled)
    return {
        BASELINE: cross_entropy,
        PEER: sorted_lovasz,
        EXACT: with_lovasz(
            lambda logits, target: lovasz_softmax(
                logits, target, ignore_index=IGNORED, method="exact"
            )
        ),
        "fused CE + Lovász, torch (ours)": fused("torch"),
        fused_name(device): fused(compiled) if available else None,
        SOFT_JACCARD: with_lovasz(soft_jaccard),
        **{
            f"fused CE + {region}, {compiled} (ours)": fused(compiled, region)
            if available
            else None
            for region in OTHER_REGIONS
        },
    }


def _compiler(device: torch.device) -> str:
    return "triton" if device.type == "cuda" else "numba"


def fused_name(device: torch.device) -> str:
    """Name of the loss that this project is about, as its users get it."""
    return f"fused CE + Lovász, {_compiler(device)} (ours)"


@functools.cache
def _peer() -> Callable:
    from segmentation_models_pytorch.losses import LovaszLoss  # seconds, for whoever times it

    return LovaszLoss("multiclass", ignore_index=IGNORED)


def has_other_region(name: str) -> bool:
    """Whether the second term of a contestant is something else than the Lovász loss."""
    return name == SOFT_JACCARD or any(f"CE + {region}," in name for region in OTHER_REGIONS)


def soft_jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """1 - intersection / union of the probabilities, mean over the classes present; PyTorch."""
    valid = (target != IGNORED).unsqueeze(1)
    p = logits.softmax(1) * valid
    truth = F.one_hot(target.masked_fill(target == IGNORED, 0), p.shape[1]).movedim(-1, 1) * valid
    pixels = [dim for dim in range(p.dim()) if dim != 1]
    intersection, total = (p * truth).sum(pixels), truth.sum(pixels)
    losses = 1 - intersection / (p.sum(pixels) + total - intersection)
    return losses[total > 0].mean()


def _upsample(logits: Tensor, scale_factor: int) -> Tensor:
    if scale_factor == 1:
        return logits
    return F.interpolate(logits, scale_factor=scale_factor, mode="bilinear", align_corners=False)


def _as_image(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Points as an image of one row, for losses that know images alone."""
    if logits.dim() > 2:
        return logits, target
    return logits.t()[None, :, None], target[None, None]


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def definition(logits: Tensor, target: Tensor, scale_factor: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, Lovász-Softmax and the gradient of the latter, by the definition in float64.

    Berman et al., CVPR 2018: the errors of each class that is present are sorted, equations 8, 9,
    11 and 12.
    """
    low = logits.detach().double().requires_grad_()
    upsampled = _upsample(low, scale_factor)
    with torch.no_grad():
        ce = F.cross_entropy(upsampled, target, ignore_index=IGNORED)
        p = upsampled.softmax(1)
        valid = target != IGNORED
        present = target[valid].unique().tolist()
        slopes = torch.zeros_like(p)
        loss = 0.0
        for c in present:
            foreground = (target[valid] == c).double()
            errors = (foreground - p[:, c][valid]).abs()
            order = errors.argsort(descending=True)
            entering = foreground[order]
            total = entering.sum()
            jaccard = 1 - (total - entering.cumsum(0)) / (total + (1 - entering).cumsum(0))
            weights = torch.empty_like(errors)
            weights[order] = jaccard.diff(prepend=jaccard.new_zeros(1)) / len(present)
            loss += (weights * errors).sum()
            slopes[:, c][valid] = weights * (1 - 2 * foreground)
        slopes -= (p * slopes).sum(1, keepdim=True)
        slopes *= p
    (gradient,) = torch.autograd.grad(upsampled, low, slopes)
    return ce, loss, gradient


def kornia_row(device: torch.device) -> dict:
    """Kornia's loss beside the definition, on the terms that both know.

    It averages over images and over all classes and has no label to ignore: one image in which
    every class occurs and no pixel is ignored.
    """
    name, release = "kornia lovasz_softmax_loss", installed_version("kornia")
    if release is None:
        return {"loss": name, "value": "not installed"}
    from kornia.losses import lovasz_softmax_loss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 19, 128, 128, generator=generator).to(device).requires_grad_()
    target = torch.randint(19, (1, 128, 128), generator=generator).to(device)
    value = lovasz_softmax_loss(logits, target)
    _, expected, expected_gradient = definition(logits, target, 1)
    (gradient,) = torch.autograd.grad(value, logits)
    return {
        "loss": f"{name} {release}, 19 classes",
        "value": value.item(),
        "definition": expected.item(),
        "error": (value.double() - expected).abs().item(),
        "gradient error": relative_error(gradient, expected_gradient),
    }


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return ((value.double() - expected).norm() / expected.norm()).item()
