"""What the labels alone decide: whether they are valid, and which classes are averaged over."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Variable

from ..errors import LabelError

__all__ = [
    "as_class_weights",
    "as_labels",
    "balancing_weights",
    "check_class_weights",
    "check_classes",
    "check_labels",
    "check_labels_later",
    "class_shares",
    "label_range",
    "listed_classes",
    "present_classes",
]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # for which PyTorch has few operations


def as_labels(target: Tensor, ignore_index: int) -> Tensor:
    """Labels in a type that holds ``ignore_index`` too: in uint8, -100 would be class 156.

    Raises:
        TypeError: the labels are no tensor of an integer type, or ``ignore_index`` is no integer.
    """
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor, not {type(target).__name__}")
    if not isinstance(ignore_index, numbers.Integral):
        raise TypeError(
            f"ignore_index must be an integer, not {ignore_index!r}; a label that does not occur, "
            "such as -1, ignores nothing"
        )
    if target.dtype in _WIDE_UNSIGNED:
        return target.long()
    if target.dtype not in _INTEGERS:
        raise TypeError(f"target must be of an integer dtype, not {target.dtype}")
    holds = torch.iinfo(target.dtype)
    return target if holds.min <= ignore_index <= holds.max else target.long()


def label_range(target: Tensor, ignore_index: int) -> Tensor:
    """Smallest and largest label, ignored ones taken as 0; (2,), on the device of ``target``."""
    if target.numel() == 0:
        return target.new_zeros(2)
    return torch.stack(torch.where(target == ignore_index, 0, target).aminmax())


def check_labels(extremes: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise a LabelError if a label is neither in [0, C) nor ``ignore_index``.

    Waits for the device, unless a CUDA graph is captured, which cannot report anything.

    Args:
        extremes: see :func:`label_range`.
    """
    if extremes.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    for label in extremes.tolist():
        if not 0 <= label < num_classes:
            raise LabelError(
                f"label {label} in the semantic ground truth: expected 0 to {num_classes - 1} "
                f"for {num_classes} classes, or ignore_index, which is {ignore_index}. Check the "
                "class ids of the data and the number of classes."
            )


def check_labels_later(extremes: Tensor, num_classes: int, ignore_index: int) -> None:
    """:func:`check_labels` at the end of the backward pass that calls this.

    By then the device has all of the pass to do and the range has been copied behind the forward
    pass: waiting for the copy keeps neither of them from work, and the error belongs to its batch.
    """
    if extremes.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    on_host = torch.empty_like(extremes, device="cpu", pin_memory=extremes.is_cuda)
    on_host.copy_(extremes, non_blocking=True)
    copied = torch.cuda.Event() if extremes.is_cuda else None
    if copied is not None:
        copied.record(torch.cuda.current_stream(extremes.device))

    def check() -> None:
        if copied is not None:
            copied.synchronize()
        check_labels(on_host, num_classes, ignore_index)

    Variable._execution_engine.queue_callback(check)


def present_classes(target: Tensor, num_classes: int, ignore_index: int, num_groups: int) -> Tensor:
    """Which classes occur in each group; (G, C) bool.

    Args:
        target: (B, ...) integer, contiguous.
        num_groups: 1 (the whole batch) or B (each image).
    """
    # One more column on either side for labels out of range; ignored ones go there as well.
    present = torch.zeros(num_groups, num_classes + 2, dtype=torch.bool, device=target.device)
    if target.numel():
        column = target.long().clamp(-1, num_classes).add_(1)
        column = torch.where(target == ignore_index, 0, column)
        present.scatter_(1, column.view(num_groups, -1), True)
    return present[:, 1:-1]


def balancing_weights(
    target: Tensor,
    num_classes: int,
    ignore_index: int,
    process_group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Weights of the classes that make all of them that occur count alike in a mean over pixels.

    Args:
        target: any shape, integer.
        process_group: count the pixels of all its processes.

    Returns:
        (C,) float32: 1 / number of pixels, 0 for a class that does not occur.
    """
    target = as_labels(target, ignore_index)
    counts = torch.zeros(num_classes + 2, dtype=torch.int64, device=target.device)
    column = target.flatten().long().clamp(-1, num_classes).add_(1)
    column.masked_fill_(target.flatten() == ignore_index, 0)
    counts = counts.scatter_add_(0, column, torch.ones_like(column))[1:-1]
    if process_group is not None:
        counts = counts.contiguous()
        dist.all_reduce(counts, group=process_group)
    return torch.where(counts > 0, 1 / counts.clamp(min=1), 0).float()


def class_shares(
    present: Tensor, classes: str | Sequence[int], class_weights: Tensor | None
) -> Tensor:
    """Share of each class in the mean over classes; (G, C) float64.

    Args:
        present: (G, C) bool, see :func:`present_classes`.
        classes: "present", "all", or the classes to average over, present or not.
        class_weights: (C,) weights of the mean, or None for the plain mean.

    Returns:
        Rows that add up to 1; a row of zeros for a group without any label.

    Raises:
        ValueError: ``classes`` is something else, or a class outside [0, C).
    """
    num_classes = present.shape[1]
    check_classes(classes)
    if isinstance(classes, str):
        shares = present.double()
    else:
        chosen = listed_classes(tuple(classes), num_classes, present.device)
        shares = chosen.double().repeat(len(present), 1)
    if classes == "all":
        shares.fill_(1)
    shares *= present.any(1, keepdim=True)
    if class_weights is not None:
        shares *= class_weights
    total = shares.sum(1, keepdim=True)
    return shares / total.masked_fill(total == 0, 1)


def check_classes(classes: str | Sequence[int]) -> None:
    """Raise a ValueError for what does not say which classes to average over."""
    is_name = isinstance(classes, str)
    if classes not in ("present", "all") if is_name else not isinstance(classes, Iterable):
        raise ValueError(f'classes must be "present", "all" or a list of classes, not {classes!r}')


def listed_classes(classes: tuple[int, ...], num_classes: int, device: torch.device) -> Tensor:
    """Whether each class is one of ``classes``; (C,) bool, to be read only.

    Raises:
        ValueError: no class, or one outside [0, C).
    """
    chosen = [int(c) for c in classes]
    if not chosen or not all(0 <= index < num_classes for index in chosen):
        raise ValueError(f"classes must list classes from 0 to {num_classes - 1}, not {chosen}")
    return _constant(tuple(c in chosen for c in range(num_classes)), torch.bool, device)


def _constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor to be read only; on a GPU copied there once, and not in every step."""
    if device.type == "cpu" or torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    return _cached_constant(values, dtype, device)


@functools.lru_cache(maxsize=64)
def _cached_constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # of which a later training step could keep nothing
        return torch.tensor(values, dtype=dtype, device=device)


def check_class_weights(class_weights: Sequence[float]) -> None:
    """Raise a ValueError for a weight that is not in [0, inf)."""
    wrong = [weight for weight in class_weights if not 0 <= weight < math.inf]
    if wrong:
        raise ValueError(f"class_weights has {wrong[0]}, expected finite numbers not below 0")


def as_class_weights(
    class_weights: Tensor | Sequence[float] | None, num_classes: int, device: torch.device
) -> Tensor | None:
    """Weights of the classes as a (C,) float32 tensor; None stays None.

    Raises:
        ValueError: not one weight per class; of a sequence also, not in [0, inf).
    """
    if class_weights is None:
        return None
    if isinstance(class_weights, Tensor):  # whose values may be on a GPU, which is not waited for
        weights = class_weights.detach().to(device, torch.float32)
    else:
        check_class_weights(class_weights)
        weights = _constant(tuple(map(float, class_weights)), torch.float32, device)
    if weights.shape != (num_classes,):
        raise ValueError(
            f"class_weights has shape {tuple(weights.shape)}, expected one weight for each of "
            f"the {num_classes} classes"
        )
    return weights
