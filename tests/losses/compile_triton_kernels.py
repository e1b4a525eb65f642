"""Compile the kernels of both passes for an H100, which takes none, and print their names."""

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from panoptic_lovasz.losses.kernels import triton_impl
from panoptic_lovasz.losses.options import LossOptions

TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
TYPES |= {torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8", torch.bool: "i1"}


def compile_instead(kernel, *args, grid, warmup, **kwargs):
    """In place of a launch: compile the kernel for the types and constants it was called with."""
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
    binary = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert binary.asm["cubin"]
    print(kernel.__name__)


def main():
    JITFunction.run = compile_instead
    for shape, scale_factor, dtype, target_dtype in [
        ((2, 54, 20, 30), 4, torch.float32, torch.int64),
        ((1, 2, 5, 5), 1, torch.bfloat16, torch.int32),
        ((1, 1024, 5, 5), 8, torch.float64, torch.uint8),
    ]:
        batch, num_classes, height, width = shape
        logits = torch.zeros(shape, dtype=dtype)
        target = torch.zeros(batch, height * scale_factor, width * scale_factor, dtype=target_dtype)
        active = torch.ones(batch, num_classes, dtype=torch.bool)
        class_weights = None if scale_factor == 4 else torch.ones(num_classes)
        options = LossOptions(scale_factor=scale_factor, class_weights=class_weights)
        counters, _, saved = triton_impl.count(logits, target, active, options)
        factors = torch.ones(2)
        triton_impl.weigh(logits, target, saved, active, counters.float(), *factors, options)


if __name__ == "__main__":
    main()
