"""What the labels alone decide: whether they are valid, and which classes are averaged over."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "as_class_weights",
    "check_labels",
    "class_shares",
    "present_classes",
    "raise_pending",
]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

# Label ranges on their way from a CUDA device: (copy finished, smallest and largest, C, ignored).
_pending: deque[tuple[torch.cuda.Event, Tensor, int, int]] = deque()
_pending_lock = threading.Lock()


def check_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise a ValueError if a label is neither in [0, C) nor ``ignore_index``.

    On the CPU at once. On CUDA waiting for the device would cost more than the check: the range
    of the labels is copied to the host in the background and looked at by the next call of
    :func:`raise_pending`, which each forward and backward pass makes. Until then the losses treat
    such a label like ``ignore_index``.

    Raises:
        TypeError: ``target`` is not of an integer type.
        ValueError: as above; the message names the label.
    """
    if target.dtype not in _INTEGERS:
        raise TypeError(f"target must be of an integer dtype, not {target.dtype}")
    raise_pending()
    if target.numel() == 0 or _is_capturing():
        return
    extremes = torch.stack(torch.where(target == ignore_index, 0, target).aminmax())
    if not target.is_cuda:
        _check_range(extremes, num_classes, ignore_index)
        return
    on_host = torch.empty_like(extremes, device="cpu", pin_memory=True)
    on_host.copy_(extremes, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(target.device))
    with _pending_lock:
        _pending.append((copied, on_host, num_classes, ignore_index))


def raise_pending(wait: bool = False) -> None:
    """Raise the ValueError of earlier calls of :func:`check_labels` whose range has arrived.

    Args:
        wait: wait for those whose range has not.
    """
    while not _is_capturing():
        with _pending_lock:
            if not _pending or not (wait or _pending[0][0].query()):
                return
            copied, extremes, num_classes, ignore_index = _pending.popleft()
        copied.synchronize()
        _check_range(extremes, num_classes, ignore_index)


def _is_capturing() -> bool:
    """Whether a CUDA graph is being captured: it cannot report to the host."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _check_range(extremes: Tensor, num_classes: int, ignore_index: int) -> None:
    for label in extremes.tolist():
        if not 0 <= label < num_classes:
            raise ValueError(
                f"label {label} in the semantic ground truth: expected 0 to {num_classes - 1} "
                f"(the logits have {num_classes} channels), or ignore_index, which is "
                f"{ignore_index}. Check the class ids of the data and the number of classes."
            )


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
    if isinstance(classes, str):
        if classes not in ("present", "all"):
            raise ValueError(
                f'classes must be "present", "all" or a list of classes, not "{classes}"'
            )
        shares = present.double()
    else:
        shares = present.new_zeros(present.shape, dtype=torch.float64)
        chosen = list(classes)
        if not chosen or not all(0 <= index < num_classes for index in chosen):
            raise ValueError(f"classes must list classes from 0 to {num_classes - 1}, not {chosen}")
        shares[:, chosen] = 1
    if classes == "all":
        shares.fill_(1)
    shares *= present.any(1, keepdim=True)
    if class_weights is not None:
        shares *= class_weights
    total = shares.sum(1, keepdim=True)
    return shares / total.masked_fill(total == 0, 1)


def as_class_weights(
    class_weights: Tensor | Sequence[float] | None, num_classes: int, device: torch.device
) -> Tensor | None:
    """Weights of the classes as a (C,) float32 tensor; None stays None.

    Raises:
        ValueError: not one weight per class.
    """
    if class_weights is None:
        return None
    weights = torch.as_tensor(class_weights, dtype=torch.float32, device=device).detach()
    if weights.shape != (num_classes,):
        raise ValueError(
            f"class_weights has shape {tuple(weights.shape)}, expected one weight for each of "
            f"the {num_classes} classes"
        )
    return weights
