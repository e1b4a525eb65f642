"""The few places where Detectron2 0.6 and its main branch differ, or know no CPU process group."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from unittest import mock

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer, defaults
from detectron2.utils import comm

__all__ = ["create_local_process_group", "ddp_on_any_device", "reset_data_loader"]


def create_local_process_group(processes_per_machine: int) -> None:
    """Tell Detectron2's ``comm`` which ranks share this machine."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_per_machine)
        return
    machine = comm.get_rank() // processes_per_machine
    for i in range(comm.get_world_size() // processes_per_machine):
        ranks = range(i * processes_per_machine, (i + 1) * processes_per_machine)
        group = dist.new_group(list(ranks))
        if i == machine:
            comm._LOCAL_PROCESS_GROUP = group


@contextlib.contextmanager
def ddp_on_any_device(device: str) -> Iterator[None]:
    """Let ``DefaultTrainer`` wrap a model on the CPU, where DDP takes no ``device_ids``."""
    if torch.device(device).type != "cpu":
        yield
        return
    create = functools.partial(defaults.create_ddp_model, device_ids=None)
    with mock.patch.object(defaults, "create_ddp_model", create):
        yield


def reset_data_loader(trainer: SimpleTrainer, data_loader: Iterable) -> None:
    """Let a trainer that has not started draw its batches from another loader."""
    if hasattr(trainer, "reset_data_loader"):
        trainer.reset_data_loader(lambda: data_loader)
        return
    trainer.data_loader = data_loader
    trainer._data_loader_iter = iter(data_loader)
