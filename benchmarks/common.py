"""Time and memory of one call, the same way for every contestant, and tables of the results."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tabulate import tabulate

Times = dict[str, list[float]]
CALLS_IN_A_ROW = 10  # on CUDA: one call may take less than the host takes for it
LONG_CALL = 0.02  # seconds, from which on that cannot be, and a call is timed alone


def installed_version(package: str) -> str | None:
    """Version of an optional peer, None where it is not installed."""
    with contextlib.suppress(PackageNotFoundError):
        return version(package)


def describe(device: torch.device) -> str:
    """What ran the benchmark, for the reader of its figures."""
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        load = os.getloadavg()[0]
        machine = f"CPU with {capability}, {torch.get_num_threads()} threads, load {load:.1f}"
    return f"{machine}; torch {torch.__version__}"


def interleave(
    calls: dict[str, Callable[[], object]],
    device: torch.device,
    *,
    seconds: float = 10.0,
    at_least: int = 2,
    at_most: int = 50,
) -> tuple[Times, Times]:
    """Run the calls in turn, so that what disturbs the machine disturbs all of them alike.

    After a warm-up each call is repeated until it has used up ``seconds``. On CUDA one repeat of a
    short call is several in a row, and the time that the device took for them divided by their
    number.

    Returns:
        Wall-clock seconds of each repeat, and CPU seconds of all threads (nothing on CUDA).
    """
    for call in calls.values():
        call()
    wall: Times = {name: [] for name in calls}
    cpu: Times = {name: [] for name in calls}
    in_a_row = dict.fromkeys(calls, 1)
    if device.type == "cuda":
        for name, call in calls.items():
            in_a_row[name] = CALLS_IN_A_ROW if _device_seconds(call, 1) < LONG_CALL else 1
    for repeat in range(at_most):
        for name, call in calls.items():
            if repeat >= at_least and sum(wall[name]) * in_a_row[name] > seconds:
                continue
            if device.type == "cuda":
                wall[name].append(_device_seconds(call, in_a_row[name]))
                continue
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            call()
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(time.process_time() - cpu_start)
    return wall, cpu


def _device_seconds(call: Callable[[], object], in_a_row: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(in_a_row):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / in_a_row


def median(values: list[float]) -> float | None:
    """Median, None if there are no values."""
    return statistics.median(values) if values else None


def peak_extra_memory(call: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call holds at its peak beyond what was held before it.

    On the CPU this is resident memory, high-water mark less start (Linux only). Run it
    :func:`in_fresh_process`, after a small call for what stays loaded.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to the present
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def in_fresh_process(function: Callable[..., int], *args: object) -> int:
    """Call a function in a process that gives every freed block of 64 KB or more back.

    Otherwise memory that was freed before the measurement is used again in it, unseen.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as process:
            return process.submit(function, *args).result()
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def write_table(rows: list[dict], path: Path) -> None:
    """Write rows of equal keys as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def print_table(rows: list[dict]) -> None:
    """Print rows of equal keys; numbers with three digits."""
    print(tabulate(rows, headers="keys", floatfmt=".3g", missingval="-"), flush=True)
