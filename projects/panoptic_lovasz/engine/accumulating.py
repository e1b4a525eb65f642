"""Gradient accumulation: one step of the optimizer from the gradients of several batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..modeling.losses import as_named

__all__ = ["run_accumulated_step", "unwrap"]

_Batch = Sequence[Mapping[str, Any]]


def run_accumulated_step(trainer: SimpleTrainer, num_batches: int) -> None:
    """Do one iteration of Detectron2's trainer with the mean gradient of its next batches.

    Processes exchange gradients once, with the last batch. Gradient clipping and the scaler of an
    ``AMPTrainer`` see the mean gradient: a value that is not finite in any batch skips the step.

    Cross-entropy weighs all labeled pixels of the step alike, as in one large batch; other losses
    are means over batches, as they are over processes (see :func:`_factors`).

    Args:
        trainer: a ``SimpleTrainer`` or ``AMPTrainer``, within its loop.
        num_batches: the number of batches.
    """
    start = time.perf_counter()
    batches = [next(trainer._data_loader_iter) for _ in range(num_batches)]
    data_time = time.perf_counter() - start

    model, optimizer = trainer.model, trainer.optimizer
    scaler = getattr(trainer, "grad_scaler", None)  # that of an AMPTrainer
    device = next(model.parameters()).device.type
    autocast = torch.autocast(
        device, dtype=getattr(trainer, "precision", None), enabled=scaler is not None
    )
    factors = _factors(model, batches)
    total: dict[str, Tensor] = {}
    optimizer.zero_grad()
    for i, batch in enumerate(batches):
        with _no_exchange(model) if i + 1 < num_batches else contextlib.nullcontext():
            with autocast:
                losses = as_named(model(batch), "total_loss")
            losses = {
                name: loss * (factors[name][i] if name in factors else 1) / num_batches
                for name, loss in losses.items()
            }
            loss: Any = sum(losses.values())
            (loss if scaler is None else scaler.scale(loss)).backward()
        for name, loss in losses.items():
            total[name] = total.get(name, 0) + loss.detach()
    trainer._write_metrics(total, data_time)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def unwrap(model: Any) -> Any:
    """The network itself, without its wrapper for parallel training."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _no_exchange(model: Any) -> contextlib.AbstractContextManager:
    is_distributed = isinstance(model, DistributedDataParallel)
    return model.no_sync() if is_distributed else contextlib.nullcontext()


def _factors(model: Any, batches: Sequence[_Batch]) -> Mapping[str, Sequence[float]]:
    """What the semantic loss says of itself (``batch_factors``); nothing if it does not."""
    loss: Any = getattr(getattr(unwrap(model), "sem_seg_head", None), "loss", None)
    if not hasattr(loss, "batch_factors"):
        return {}
    return loss.batch_factors([[item["sem_seg"] for item in batch] for batch in batches])
