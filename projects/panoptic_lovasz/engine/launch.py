"""Start a training on any number of processes: Detectron2's ``launch``, or torchrun."""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_detectron2
from detectron2.utils import comm

from ..compat import create_local_process_group
from ..errors import ConfigError

__all__ = ["launch"]


def launch(main_func: Callable, args: argparse.Namespace) -> None:
    """Run ``main_func(args)`` in every process.

    Under torchrun this process is one of the workers and joins their group (NCCL on GPUs, gloo
    on the CPU). On several machines without GPUs (``args.num_gpus`` 0) it is the only one of its
    machine. Otherwise Detectron2's ``launch`` starts ``args.num_gpus`` workers a machine.

    Raises:
        ConfigError: if there are fewer GPUs than processes that want one.
    """
    if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, but PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices here; --num-gpus 0 trains on the CPU"
        )
    if dist.is_torchelastic_launched():
        use_gpu = args.num_gpus > 0 and torch.cuda.is_available()
        if use_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
        _join(main_func, args, processes, backend="nccl" if use_gpu else "gloo")
    elif args.num_machines > 1 and args.num_gpus == 0:  # Detectron2 would leave each to itself
        meet = {"world_size": args.num_machines, "rank": args.machine_rank}
        _join(main_func, args, 1, backend="gloo", init_method=args.dist_url, **meet)
    else:
        several = args.num_gpus * args.num_machines > 1  # then it starts processes
        with _sigterm_for_workers() if several else contextlib.nullcontext():
            launch_detectron2(
                main_func,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )


@contextlib.contextmanager
def _sigterm_for_workers() -> Iterator[None]:
    """Hand SIGTERM on to the workers, which then save and stop together.

    Nothing is done in another thread than the main one, in which alone Python allows it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(signum: int, frame: FrameType | None) -> None:
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.terminate()
        if not workers:
            sys.exit(128 + signum)

    previous = signal.signal(signal.SIGTERM, hand_on) or signal.SIG_DFL  # None: not from Python
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _join(main_func: Callable, args: argparse.Namespace, processes: int, **group: Any) -> None:
    """Run ``main_func(args)`` in a group of processes, so many of them on this machine."""
    dist.init_process_group(**group)
    create_local_process_group(processes)
    comm.synchronize()
    try:
        main_func(args)
    finally:
        gc.collect()  # a model that outlives its group frees it with the GIL held and can hang
        dist.destroy_process_group()
