"""What the settings of a process gain: how OpenMP's threads wait, and memory that is kept.

    python -m benchmarks.process_settings

Each setting in a process of its own, in turns, --rounds times; the median of their medians.
Run it once where all cores are free and once beside other work.

small layers   thirty convolutions of 64 channels at 32 x 32: threads meet often
large layers   four convolutions of 32 channels at 512 x 512, whose outputs of 33 MB are memory anew

"as ours" is what `panoptic_lovasz.process.prepare_process` sets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from panoptic_lovasz.process import prepare_process

# An empty variable changes nothing, but counts as the user's word, which stays.
SETTINGS = {
    "none: waiting threads spin, memory goes back": {
        "GOMP_SPINCOUNT": "",
        "GLIBC_TUNABLES": "",
    },
    "GOMP_SPINCOUNT=20000 alone": {"GLIBC_TUNABLES": ""},
    "OMP_WAIT_POLICY=PASSIVE alone": {"OMP_WAIT_POLICY": "PASSIVE", "GLIBC_TUNABLES": ""},
    "freed memory is kept, alone": {"GOMP_SPINCOUNT": ""},
    "as ours": {},
}
WORK = {"small layers": (30, 64, 32), "large layers": (4, 32, 512)}
CHILD = "--measure"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/process.csv"))
    args = parser.parse_args()
    from . import common  # loads PyTorch, which a measured process must not have done yet

    found: dict[str, list[dict]] = {name: [] for name in SETTINGS}
    for _ in range(args.rounds):
        for name, variables in SETTINGS.items():
            command = [
                sys.executable,
                "-m",
                "benchmarks.process_settings",
                CHILD,
                str(args.threads),
            ]
            kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
            out = subprocess.run(
                command, env={**kept, **variables}, check=True, capture_output=True, text=True
            )
            found[name].append(json.loads(out.stdout))
    rows = [
        {"setting": name, **{k: common.median([r[k] for r in results]) for k in results[0]}}
        for name, results in found.items()
    ]
    print(f"{args.threads} threads, load {os.getloadavg()[0]:.1f}")
    common.print_table(rows)
    common.write_table(rows, args.output)


def measure(threads: int) -> dict[str, float]:
    """Median milliseconds of each work, of the clock and of the CPU."""
    prepare_process()
    import torch

    torch.set_num_threads(threads)
    row = {}
    for name, (layers, channels, side) in WORK.items():
        convolution = torch.nn.Conv2d(channels, channels, 3, padding=1)
        wall, cpu = [], []
        with torch.inference_mode():
            for repeat in range(12):
                x = torch.zeros(1, channels, side, side)
                start = time.perf_counter(), time.process_time()
                for _ in range(layers):
                    x = convolution(x)
                if repeat > 1:  # the first ones warm up
                    wall.append(1e3 * (time.perf_counter() - start[0]))
                    cpu.append(1e3 * (time.process_time() - start[1]))
        row |= {f"{name}, ms": statistics.median(wall), f"{name}, CPU ms": statistics.median(cpu)}
    return row


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main()
