"""Where a step of the loss spends its time: kernels, launches, host; beside cross-entropy.

    python -m benchmarks.loss_profile --device cuda

A step is a forward and a backward pass. "device ms" is what it takes when steps follow one another,
"kernels ms" the sum of its kernels' times, "graph ms" a replay of its CUDA graph, which is a step
without the host, and "host ms" what the host needs to hand a step to a device that is busy: the
longer one of it and the kernels decides. Launches are kernels, copies and fills. Then the kernels
that take longest, by the profiler. On the CPU, where none of this exists, launches and times are
those of operators; that is a rehearsal. Written to --output as two CSVs.
"""

from __future__ import annotations

import argparse
import collections
import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from . import common
from .loss import step
from .loss_contestants import BASELINE, WORKLOADS, Workload, contestants, fused_name

REPEATS = 8  # so few that the queue of launches does not fill up
KERNELS_SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="(%(default)s)")
    parser.add_argument(
        "--workloads", nargs="*", default=list(WORKLOADS), choices=WORKLOADS, help="(all)"
    )
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    device = torch.device(args.device)
    print(common.describe(device))
    rows, kernels = [], []
    for name in args.workloads:
        for row, of_kernels in measure(WORKLOADS[name], device):
            rows.append(row)
            kernels += of_kernels
    for table, stem in ((rows, "loss_profile"), (kernels, "loss_profile_kernels")):
        common.print_table(table)
        common.write_table(table, args.output / f"{stem}_{device.type}.csv")


def measure(workload: Workload, device: torch.device):
    """For cross-entropy and the fused loss: a row, and rows of the kernels that take longest."""
    logits, target = workload.make(device)
    losses = contestants(device, workload.scale_factor)
    for name in (BASELINE, fused_name(device)):
        loss = losses[name]
        if loss is None:
            continue
        call = functools.partial(step, loss, logits, target)
        times, launches = by_kernel(call, device)
        label = {"workload": workload.name, "loss": name}
        row = {"device ms": None, "kernels ms": sum(times.values()), "graph ms": None}
        row |= {"host ms": None, "launches": launches}
        if device.type == "cuda":
            wall, _ = common.interleave({"": call}, device, seconds=0.3)
            row["device ms"] = 1e3 * common.median(wall[""])
            row["graph ms"], row["host ms"] = graph_ms(call, device), host_ms(call)
        longest = [
            label | {"kernel": kernel[:60], "ms": ms}
            for kernel, ms in times.most_common(KERNELS_SHOWN)
        ]
        yield label | row, longest


def by_kernel(call: Callable, device: torch.device) -> tuple[collections.Counter, float]:
    """Milliseconds a step by kernel, and launches a step; on the CPU by operator."""
    on_gpu = device.type == "cuda"
    call()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        for _ in range(REPEATS):
            call()
        if on_gpu:
            torch.cuda.synchronize()
    times: collections.Counter = collections.Counter()
    launches = 0
    for event in profiler.key_averages():
        if on_gpu == (event.device_type == torch.autograd.DeviceType.CUDA):
            us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            times[event.key] += us / 1e3 / REPEATS
            launches += event.count
    return times, launches / REPEATS


def graph_ms(call: Callable, device: torch.device) -> float:
    """A replay of the step's graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # before a capture everything has to have run on its stream
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    wall, _ = common.interleave({"": graph.replay}, device, seconds=0.3)
    return 1e3 * common.median(wall[""])


def host_ms(call: Callable) -> float:
    """What the host takes for a step while the device is busy with something else."""
    call()
    torch.cuda.synchronize()
    torch.cuda._sleep(10**9)  # cycles: about half a second
    start = time.perf_counter()
    for _ in range(REPEATS):
        call()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return 1e3 * seconds / REPEATS


if __name__ == "__main__":
    main()
