"""What the Triton kernels of the loss compile to, for GPUs that need not be there.

    python -m benchmarks.triton_kernels

Registers, bytes of stack (what is spilled), warps per multiprocessor that fit by registers and
shared memory, and machine instructions of the loop over classes per pixel and class (all of the
loop as compiled, both sides of its branches), for the A100 (sm_80) and the H100 (sm_90).
Written to --output as CSV. Needs Triton, which brings NVIDIA's assembler along, and a C compiler.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from panoptic_lovasz.losses.kernels import triton_impl
from panoptic_lovasz.losses.options import LossOptions

from . import common

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
TYPES |= {torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8", torch.bool: "i1"}
ARCHITECTURES = {80: 164 * 1024, 90: 228 * 1024}  # shared memory of a multiprocessor, bytes
REGISTERS, WARPS = 65536, 64  # of a multiprocessor, in both
# B, C, h, w; scale factor; types of logits and labels
WORKLOADS = {
    "coco": ((2, 54, 200, 304), 4, torch.float32, torch.int64),
    "points": ((1, 20, 118, 1024), 1, torch.bfloat16, torch.int32),
    "many classes": ((1, 1024, 8, 8), 8, torch.float64, torch.uint8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--workloads", nargs="*", default=list(WORKLOADS), choices=WORKLOADS, help="(all)"
    )
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    rows = [
        row
        for architecture in ARCHITECTURES
        for name in args.workloads
        for row in measure(name, *WORKLOADS[name], architecture)
    ]
    common.print_table(rows)
    common.write_table(rows, args.output / "triton_kernels.csv")


def measure(
    name: str,
    shape: tuple[int, int, int, int],
    scale_factor: int,
    dtype: torch.dtype,
    target_dtype: torch.dtype,
    architecture: int,
) -> list[dict]:
    """Rows of the table: the kernels of a forward and backward pass, compiled but not run."""
    rows = []

    def compile_instead(kernel, *args, grid, warmup, **kwargs):
        binary = compile_for(kernel, args, kwargs, architecture)
        # Every kernel has a thread for each cell, so that a thread has the pixels of one.
        description = describe(binary, kwargs["SCALE"] ** 2, architecture)
        rows.append({"sm": architecture, "workload": name, "kernel": kernel.__name__} | description)

    batch, num_classes, height, width = shape
    logits = torch.zeros(shape, dtype=dtype)
    target = torch.zeros(batch, height * scale_factor, width * scale_factor, dtype=target_dtype)
    active = torch.ones(batch, num_classes, dtype=torch.bool)
    class_weights = None if scale_factor == 4 else torch.ones(num_classes)
    options = LossOptions(scale_factor=scale_factor, class_weights=class_weights)
    run, JITFunction.run = JITFunction.run, compile_instead
    try:
        counters, _, saved = triton_impl.count(logits, target, active, options)
        factors = torch.ones(2)
        triton_impl.weigh(logits, target, saved, active, counters.float(), *factors, options)
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
            signature[parameter.name] = "i32"
    source = ASTSource(kernel, signature, constexprs)
    return compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def describe(binary, pixels_per_thread: int, architecture: int) -> dict:
    """Resources of a compiled kernel, and instructions of its longest loop."""
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
    return {
        "registers": registers,
        "stack, bytes": stack,
        "warps per SM": blocks * num_warps,
        "instructions per pixel and class": longest_loop(assembly) / pixels_per_thread,
    }


def _cuobjdump(option: str, file: str) -> str:
    command = [CUOBJDUMP, option, file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def longest_loop(assembly: str) -> int:
    """Number of instructions between the furthest backward branch and where it leads."""
    addresses, loops = [], [0]
    for address, instruction in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", assembly):
        addresses.append(int(address, 16))
        branch = re.search(r"\bBRA.*?0x([0-9a-f]+)", instruction)
        if branch and int(branch[1], 16) < addresses[-1]:  # a branch to itself ends every kernel
            loops.append(sum(a >= int(branch[1], 16) for a in addresses))
    return max(loops)


if __name__ == "__main__":
    main()
