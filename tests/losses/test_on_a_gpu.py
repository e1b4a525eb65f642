"""What only a GPU can show: sizes, types, layouts, streams and graphs.

The reference is the exact loss in float64 on the device; other tests hold it against the paper.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from panoptic_lovasz.losses import cross_entropy_lovasz, cross_entropy_region, lovasz_softmax

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# B, C, h, w, s
SMALL = [(1, 2, 1, 1, 4), (2, 3, 3, 2, 1), (1, 4, 2, 3, 3), (2, 7, 61, 67, 5), (1, 3, 7, 5, 32)]
LARGE = [(2, 54, 200, 304, 4), (2, 19, 128, 256, 4), (4, 150, 128, 128, 4), (8, 9, 90, 120, 4)]
ODD = [(1, 1024, 33, 17, 2), (1, 512, 64, 64, 4), (1, 21, 33, 33, 16), (1, 2, 513, 1025, 1)]
TYPES = [torch.float32, torch.float16, torch.bfloat16]


def make_batch(shape, dtype=torch.float32, scale=2.0, seed=0):
    images, classes, height, width, factor = shape
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, height, width, generator=generator) * scale
    size = images, height * factor, width * factor
    target = torch.randint(classes, size, generator=generator)
    target[torch.rand(size, generator=generator) < 0.1] = 255 if classes <= 255 else -1
    return logits.to("cuda", dtype), target.cuda()


def gradients(losses, logits, target):
    """Of the losses summed over pixels: those of means are too small for float16."""
    for loss in losses:
        yield torch.autograd.grad(loss * target.numel(), logits, retain_graph=True)[0]


def step(logits, target, **options):
    """Both losses and their gradients."""
    logits = logits.detach().requires_grad_()
    ignore_index = 255 if logits.shape[1] <= 255 else -1
    losses = cross_entropy_lovasz(
        logits, target, ignore_index=ignore_index, impl="triton", **options
    )
    return *losses, *gradients(losses, logits, target)


def in_float64(logits, target, factor):
    logits = logits.detach().double().requires_grad_()
    ignore_index = 255 if logits.shape[1] <= 255 else -1
    upsampled = logits
    if factor > 1:
        upsampled = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
    losses = (
        F.cross_entropy(upsampled, target, ignore_index=ignore_index),
        lovasz_softmax(upsampled, target, ignore_index=ignore_index, method="exact"),
    )
    return *losses, *gradients(losses, logits, target)


def relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SMALL + LARGE + ODD, ids=str)
def test_losses_and_gradients_are_those_of_float64(shape, dtype):
    logits, target = make_batch(shape, dtype)
    ce, lovasz, ce_gradient, lovasz_gradient = step(logits, target, scale_factor=shape[4])
    expected = in_float64(logits, target, shape[4])
    assert ce.item() == pytest.approx(expected[0].item(), rel=1e-5, abs=1e-5)
    # Bins make it smaller than the definition, by 1 / 1024 at most.
    assert -1 / 1024 <= lovasz.item() - expected[1].item() < 3e-6
    rounding = torch.finfo(dtype).eps if dtype != torch.float32 else 0
    assert relative(ce_gradient, expected[2]) < 1e-5 + rounding
    pixels = target.numel() / shape[1]
    if pixels > 1000:  # of few pixels those that share a bin show in the gradient
        assert relative(lovasz_gradient, expected[3]) < 3e-3 + rounding


@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_flat_and_very_confident_logits_are_those_of_float64(scale):
    logits, target = make_batch((2, 9, 40, 40, 4), scale=scale)
    _, lovasz, *_ = step(logits, target)
    _, expected, *_ = in_float64(logits, target, 4)
    assert -1 / 1024 <= lovasz.item() - expected.item() < 1e-3


def test_more_than_two_to_the_31_logits_are_what_their_images_are_alone():
    free, _ = torch.cuda.mem_get_info()
    if free < 30 * 2**30:
        pytest.skip(f"needs 30 GiB of free memory on the device, there are {free / 2**30:.0f}")
    shape = (2, 20, 8192, 8192)
    assert math.prod(shape) > 2**31
    logits = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    target = torch.randint(20, (2, 8192, 8192), device="cuda", dtype=torch.uint8)
    options = {"scale_factor": 1, "per_image": True, "ignore_index": 255, "impl": "triton"}
    leaf = logits.requires_grad_()
    loss = cross_entropy_lovasz(leaf, target, ce_weight=0.0, **options)[1]
    (gradient,) = torch.autograd.grad(loss, leaf)
    last = logits.detach()[1:].clone().requires_grad_()
    alone = cross_entropy_lovasz(last, target[1:], ce_weight=0.0, **options)[1]
    (expected,) = torch.autograd.grad(alone, last)
    for c in range(0, 20, 5):  # a class at a time, for the memory
        assert relative(2 * gradient[1, c].float(), expected[0, c].double()) < 1e-2


def _assert_same_bits(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_another_stream_gives_the_same_bits():
    logits, target = make_batch((2, 19, 64, 64, 4))
    expected = step(logits, target)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = step(logits, target)
    torch.cuda.synchronize()
    _assert_same_bits(found, expected)


def test_a_captured_graph_gives_the_bits_of_other_data_when_it_is_replayed():
    shape = (2, 19, 64, 64, 4)
    logits, target = make_batch(shape)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(logits, target)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(logits, target)
    other = make_batch(shape, seed=7)
    logits.copy_(other[0])
    target.copy_(other[1])
    graph.replay()
    torch.cuda.synchronize()
    _assert_same_bits(results, step(*other))


def test_strides_and_alignment_change_no_bit():
    logits, target = make_batch((2, 6, 8, 9, 4))
    expected = step(logits, target)
    wide = torch.empty(2, 6, 8, 11, device="cuda")
    wide[..., 1:10] = logits
    shifted = torch.empty(logits.numel() + 1, device="cuda")[1:].view(logits.shape).copy_(logits)
    for same in (logits.to(memory_format=torch.channels_last), wide[..., 1:10], shifted):
        _assert_same_bits(step(same, target), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"per_image": True},
        {"classes": [0, 2]},
        {"class_weights": [1.0] * 19},
        {"region": "tversky"},
    ],
    ids=str,
)
def test_no_option_makes_a_step_wait_for_the_device(options):
    logits, target = make_batch((2, 19, 32, 64, 4))
    region = options.pop("region", "lovasz")

    def run():
        leaf = logits.detach().requires_grad_()
        sum(cross_entropy_region(leaf, target, region=region, impl="triton", **options)).backward()

    run()
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def test_autocast_and_grad_scaler_train_with_it():
    logits, target = make_batch((2, 19, 64, 64, 4))
    layer = torch.nn.Conv2d(19, 19, 1).cuda()
    scaler = torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    losses = []
    for _ in range(20):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = sum(cross_entropy_lovasz(layer(logits), target, impl="triton"))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert losses[-1] < losses[0]


def test_a_compiled_function_has_the_same_value():
    logits, target = make_batch((2, 5, 16, 16, 4))

    def loss(logits):
        return sum(cross_entropy_lovasz(2 * logits, target, impl="triton"))

    compiled = torch.compile(loss, fullgraph=True)
    assert compiled(logits).item() == pytest.approx(loss(logits).item(), abs=1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_another_device_than_the_current_one_gives_the_same():
    logits, target = make_batch((2, 5, 16, 16, 4))
    found = step(logits.to("cuda:1"), target.to("cuda:1"))
    for a, b in zip(found, step(logits, target), strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu())
