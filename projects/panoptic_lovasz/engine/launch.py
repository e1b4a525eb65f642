"""Start a training on any number of processes: Detectron2's ``launch``, or torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_detectron2
from detectron2.utils import comm

from ..compat import create_local_process_group

__all__ = ["launch"]


def launch(main_func: Callable, args: argparse.Namespace) -> None:
    """Run ``main_func(args)`` in every process.

    Under torchrun this process is one of the workers and joins their group (NCCL on GPUs, gloo
    on the CPU); otherwise Detectron2's ``launch`` starts ``args.num_gpus`` workers a machine.
    """
    if not dist.is_torchelastic_launched():
        launch_detectron2(
            main_func,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
        return
    use_gpu = args.num_gpus > 0 and torch.cuda.is_available()
    if use_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if use_gpu else "gloo")
    create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
    try:
        main_func(args)
    finally:
        dist.destroy_process_group()
