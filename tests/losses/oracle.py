"""The losses straight from the paper: float64, one pixel at a time, slow and obvious.

Berman et al., "The Lovász-Softmax loss", CVPR 2018; equation numbers are those of the paper.
Everything takes and returns float64 tensors and can be differentiated by autograd.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def jaccard_loss(total: int, wrong_foreground: int, wrong_background: int) -> float:
    """Equation 6: 1 - IoU if these pixels are wrong, of `total` foreground pixels."""
    union = total + wrong_background
    return 1 - (total - wrong_foreground) / union if union else 0.0


def lovasz_weights(errors: list[float], foreground: list[bool]) -> list[float]:
    """Equation 8: what each pixel adds to the Jaccard loss, entering by decreasing error."""
    weights = [0.0] * len(errors)
    wrong = [0, 0]
    before = 0.0
    for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
        wrong[foreground[i]] += 1
        after = jaccard_loss(sum(foreground), wrong[True], wrong[False])
        weights[i] = after - before
        before = after
    return weights


def lovasz_extension(errors: Tensor, foreground: Tensor) -> Tensor:
    """Equation 7, of one vector of errors."""
    weights = lovasz_weights(errors.tolist(), foreground.tolist())
    return (errors * torch.tensor(weights, dtype=torch.float64)).sum()


def tversky(errors: Tensor, foreground: Tensor, alpha: float, beta: float) -> Tensor:
    """Soft Tversky loss of one class; with alpha = beta = 1 the soft Jaccard, with 1/2 Dice."""
    true = (1 - errors[foreground]).sum()
    missed, wrong = errors[foreground].sum(), errors[~foreground].sum()
    return 1 - true / (true + alpha * wrong + beta * missed)


def lovasz_softmax(logits: Tensor, target: Tensor, **options) -> Tensor:
    """Equations 11 and 12; logits (B, C, *spatial), target (B, *spatial)."""
    return region(logits, target, lovasz_extension, **options)


def region(
    logits: Tensor,
    target: Tensor,
    loss_of_class,
    *,
    ignore_index: int = 255,
    classes="present",
    per_image: bool = False,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean over groups and classes of `loss_of_class`, a function of errors and foreground."""
    num_images, num_classes = logits.shape[:2]
    images = list(range(num_images))
    groups = [[image] for image in images] if per_image else [images]
    losses = []
    for group in groups:
        label = target[group].flatten()
        pixels = logits[group].double().flatten(2).transpose(0, 1).flatten(1)
        pixels, label = pixels[:, label != ignore_index], label[label != ignore_index]
        if len(label) == 0:
            continue
        probabilities = pixels.softmax(0)
        if isinstance(classes, str):
            chosen = [c for c in range(num_classes) if classes == "all" or (label == c).any()]
        else:
            chosen = classes
        loss, total_weight = 0, 0
        for c in chosen:
            weight = 1.0 if class_weights is None else class_weights[c].item()
            errors = torch.where(label == c, 1 - probabilities[c], probabilities[c])
            loss = loss + weight * loss_of_class(errors, label == c)
            total_weight += weight
        losses.append(loss / total_weight)
    return sum(losses) / len(losses) if losses else 0.0 * logits.double().sum()


def lovasz_hinge(logits: Tensor, target: Tensor, *, ignore_index: int = 255, per_image=True):
    """Section 3.1, with the errors of equation 10; logits and target (B, *spatial)."""
    if not per_image:
        logits, target = logits.flatten()[None], target.flatten()[None]
    losses = []
    for image, label in zip(logits.double(), target, strict=True):
        image, label = image[label != ignore_index], label[label != ignore_index]
        if len(label):
            errors = (1 - image * (2.0 * label - 1)).clamp(min=0)
            losses.append(lovasz_extension(errors, label == 1))
    return sum(losses) / len(losses) if losses else 0.0 * logits.double().sum()


def lovasz_sigmoid(maps: Tensor, target: Tensor, *, ignore_index: int = 255, classes="present"):
    """Mean over maps (M, N) of equation 7 at the errors of a sigmoid."""
    losses = []
    for logits, label in zip(maps.double(), target, strict=True):
        logits, label = logits[label != ignore_index], label[label != ignore_index]
        if (label == 1).any() or (classes == "all" and len(label)):
            p = logits.sigmoid()
            losses.append(lovasz_extension(torch.where(label == 1, 1 - p, p), label == 1))
    return sum(losses) / len(losses) if losses else 0.0 * maps.double().sum()


def cross_entropy_lovasz(
    logits: Tensor,
    target: Tensor,
    *,
    scale_factor: int = 4,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    **lovasz_options,
) -> tuple[Tensor, Tensor]:
    """Both losses of the bilinearly upsampled logits."""
    logits = logits.double()
    if scale_factor > 1:
        logits = F.interpolate(
            logits, scale_factor=scale_factor, mode="bilinear", align_corners=False
        )
    weight = None if class_weights is None else class_weights.double()
    ce = F.cross_entropy(logits, target.long(), weight, ignore_index=ignore_index)
    lovasz = lovasz_softmax(
        logits, target, ignore_index=ignore_index, class_weights=class_weights, **lovasz_options
    )
    return (ce if (target != ignore_index).any() else 0.0 * logits.sum()), lovasz
