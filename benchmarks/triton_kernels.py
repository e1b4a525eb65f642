"""What the Triton kernels compile to, for GPUs that need not be there.

    python -m benchmarks.triton_kernels

For the A100 (sm_80) and the H100 (sm_90): registers, bytes of stack (what is spilled), warps per
multiprocessor that fit by registers and shared memory, and machine instructions per pixel and
class: those on the shortest and on the longest way through the loops over classes. The shortest
way is that of a class that is no pixel's label in a block of cells, as most are in most blocks.
This is static analysis of the machine code: it says nothing of memory, of atomic additions and of
the time that a GPU takes. Written to --output as CSV. Needs Triton, which brings NVIDIA's assembler
along, and a C compiler.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from panoptic_lovasz.losses.kernels import triton_impl
from panoptic_lovasz.losses.options import LossOptions
from panoptic_lovasz.merging import HeadLogits
from panoptic_lovasz.merging.kernels import labels_triton

from . import common

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.bool: "i1"}
TYPES |= {torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8"}
TYPES |= {torch.uint8: "u8", torch.float16: "fp16"}
ARCHITECTURES = {80: 164 * 1024, 90: 228 * 1024}  # shared memory of a multiprocessor, bytes
REGISTERS, WARPS = 65536, 64  # of a multiprocessor, in both


class Workload(NamedTuple):
    """What the loss is called with; batch size, height and width do not matter to the kernels."""

    num_classes: int
    scale_factor: int
    dtype: torch.dtype = torch.float32
    target_dtype: torch.dtype = torch.int64
    options: dict = {}

    def launch(self) -> None:
        """A forward and a backward pass."""
        factor, options = self.scale_factor, LossOptions(self.scale_factor, **self.options)
        logits = torch.zeros(2, self.num_classes, 8, 8, dtype=self.dtype)
        target = torch.zeros(2, 8 * factor, 8 * factor, dtype=self.target_dtype)
        ce, region, _, saved = triton_impl.forward(logits, target, options)
        triton_impl.backward(ce, region, logits, target, saved, options)


class Inference(NamedTuple):
    """What an image's labels are made from."""

    num_classes: int
    scale_factor: int
    dtype: torch.dtype = torch.float32

    def launch(self) -> None:
        """The labels of an image that is resized."""
        logits = torch.zeros(self.num_classes, 8, 8, dtype=self.dtype)
        labels_triton.labels(HeadLogits(logits, self.scale_factor, (30, 31), (60, 62)))


WORKLOADS = {
    "coco": Workload(54, 4),
    "ade": Workload(150, 4),
    "cityscapes": Workload(19, 4),
    "camvid": Workload(9, 4),
    "points": Workload(20, 1, torch.bfloat16, torch.int32, {"classes": "all"}),
    "factor 8, class weights": Workload(
        19, 8, torch.float16, torch.uint8, {"class_weights": torch.ones(19)}
    ),
    "1024 classes, lists, images": Workload(
        1024, 2, torch.float64, torch.int64, {"classes": [1, 5], "per_image": True}
    ),
    "dice": Workload(2, 3, options={"region": "dice", "num_bins": 3000}),
    "labels of coco": Inference(54, 4),
    "labels in half precision": Inference(19, 1, torch.float16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--workloads", nargs="*", default=list(WORKLOADS), choices=WORKLOADS, help="(all)"
    )
    parser.add_argument("--sm", nargs="*", type=int, default=list(ARCHITECTURES), help="(all)")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    rows = [
        {"workload": name, "sm": architecture} | row
        for name in args.workloads
        for architecture in args.sm
        for row in measure(WORKLOADS[name], architecture)
    ]
    common.print_table(rows)
    common.write_table(rows, args.output / "triton_kernels.csv")


def measure(workload: Workload | Inference, architecture: int) -> list[dict]:
    """Rows of the table: the kernels of a workload, compiled but not run."""
    rows = []

    def compile_instead(kernel, *args, grid, warmup, **kwargs):
        binary = compile_for(kernel, args, kwargs, architecture)
        pixels = kwargs.get("ROWS", 0) * kwargs.get("COLUMNS", 0)
        pixels_per_load = pixels / (1 if workload.scale_factor == 1 else 4)
        rows.append({"kernel": kernel.__name__} | describe(binary, architecture, pixels_per_load))

    run, JITFunction.run = JITFunction.run, compile_instead
    try:
        workload.launch()
    finally:
        JITFunction.run = run
    return rows


def compile_for(kernel: JITFunction, args: tuple, kwargs: dict, architecture: int):
    """Compile a kernel for the types and constants that it would be launched with."""
    names = {parameter.name for parameter in kernel.params}
    options = {name: value for name, value in kwargs.items() if name not in names}
    constants = {name: value for name, value in kwargs.items() if name in names}
    bound = kernel.signature.bind(*args, **constants).arguments
    signature, constexprs = {}, {}
    for parameter in kernel.params:
        value = bound[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constexprs[(parameter.num,)] = value
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(kernel, signature, constexprs)
    return compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def describe(binary, architecture: int, pixels_per_load: float) -> dict:
    """Resources of a compiled kernel, and instructions of its loops over classes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        assembly = _cuobjdump("-sass", file.name)
    (registers,) = map(int, re.findall(r"\bREG:(\d+)", usage))
    (stack,) = map(int, re.findall(r"\bSTACK:(\d+)", usage))
    shared, num_warps = binary.metadata.shared, binary.metadata.num_warps
    per_block = max(1, -(-registers // 8) * 8 * 32 * num_warps)
    blocks = min(REGISTERS // per_block, WARPS // num_warps)
    blocks = min(blocks, ARCHITECTURES[architecture] // (shared + 1024))
    least, most = instructions(assembly, pixels_per_load)
    return {
        "registers": registers,
        "stack, bytes": stack,
        "warps per SM": blocks * num_warps,
        "instructions, least": least,
        "instructions, most": most,
    }


def _cuobjdump(option: str, file: str) -> str:
    command = [CUOBJDUMP, option, file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(assembly: str, pixels_per_load: float) -> tuple[float | None, float | None]:
    """Fewest and most instructions per pixel and class on a way through all outermost loops.

    A round of every loop, inner ones included. A loop with exponentials has one for each pixel and
    class; in one without, logits are all that is loaded. ``None`` where no loop is about pixels.
    """
    code = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", assembly)
    index = {int(address, 16): i for i, (address, _) in enumerate(code)}
    lines = [line for _, line in code]
    targets = [_target(line, index) for line in lines]
    if not pixels_per_load or not any("MUFU.EX2" in line for line in lines):
        return None, None
    fewest, most = 0.0, 0.0
    for start, end in _outermost_loops(targets):
        ways = _ways(lines, targets, start, end)
        loads = sum("LDG" in line for line in lines[start : end + 1])
        exponentials = max(ways)  # on the ways that leave out none
        pixels = exponentials or loads * pixels_per_load
        if pixels:
            fewest += ways[exponentials][0] / pixels
            most += ways[exponentials][1] / pixels
    return (fewest, most) if fewest else (None, None)


def _target(line: str, index: dict[int, int]) -> int | None:
    branch = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", line)
    return index.get(int(branch[1], 16)) if branch else None


def _outermost_loops(targets: list[int | None]) -> Iterator[tuple[int, int]]:
    """First and last instruction of each loop that is in no other; a jump to itself is none."""
    loops = sorted((t, -i) for i, t in enumerate(targets) if t is not None and t < i)
    covered = -1
    for start, minus_end in loops:
        if start > covered:
            covered = -minus_end
            yield start, covered


def _ways(
    lines: list[str], targets: list[int | None], start: int, end: int
) -> dict[int, tuple[int, int]]:
    """Ways through a loop: by number of exponentials the least and the greatest length."""
    ways: list[dict[int, tuple[int, int]]] = [{} for _ in range(end + 2)]
    ways[start] = {0: (0, 0)}

    def lead(to: int, arriving: dict[int, tuple[int, int]]) -> None:
        for count, (least, most) in arriving.items():
            known = ways[to].get(count, (least, most))
            ways[to][count] = (min(known[0], least), max(known[1], most))

    for i in range(start, end + 1):
        more = "MUFU.EX2" in lines[i]
        after = {n + more: (least + 1, most + 1) for n, (least, most) in ways[i].items()}
        target = targets[i]
        if target is not None and i < target <= end:
            lead(target, after)
        conditional = lines[i].startswith("@")
        jumps = re.search(r"\b(BRA|EXIT|RET)\b", lines[i])
        if not jumps or conditional or i == end or (target is not None and target <= i):
            lead(i + 1, after)
    return ways[end + 1]


if __name__ == "__main__":
    main()
