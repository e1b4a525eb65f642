"""A whole training step with the Lovász loss beside one with cross-entropy alone.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --device cuda --height 800 --width 1216 --images 2 \\
        --config-file configs/COCO-PanopticSegmentation/panoptic_lovasz_R_50_3x.yaml

One model, by default that of the demo, and one random batch: forward, backward and an SGD step
with learning rate 0, so that every step does the same work. Only the loss of the semantic head
changes; the variants take turns. Of a step on the CPU all but the loss, forward and backward, is
the same work, which takes more or less time as the machine is busy: so the loss is timed inside of
the steps as well, and a step with it is compared on the same rest. Written to --output as CSV.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.solver import build_optimizer
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from panoptic_lovasz import load_config
from panoptic_lovasz.losses import build_sem_seg_loss

from . import common
from .loss_contestants import Workload

CONFIG = Path(__file__).parents[1] / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
DETECTRON2 = "cross-entropy, Detectron2"
FUSED = "cross-entropy, fused"
LOVASZ = "cross-entropy + Lovász, fused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", default=str(CONFIG), help="(that of the demo)")
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--images", type=int, default=8, help="in the batch (%(default)s)")
    parser.add_argument("--height", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="per variant (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    cfg = configuration(args.config_file, device)
    batch = random_batch(cfg, args.images, args.height, args.width)
    print(common.describe(device))
    with EventStorage():
        rows = measure(cfg, batch, device, args.seconds)
    common.print_table(rows)
    common.write_table(rows, args.output / f"training_step_{device.type}.csv")


def configuration(config_file: str, device: torch.device) -> CfgNode:
    """The config, with the classes of the demo's data where it names none."""
    options = ["MODEL.DEVICE", device.type, "MODEL.WEIGHTS", ""]
    if Path(config_file).resolve() == CONFIG.resolve():
        options += ["MODEL.ROI_HEADS.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6]
    return load_config(config_file, options)


def random_batch(cfg: CfgNode, num_images: int, height: int, width: int) -> list[dict]:
    """Random pixels, eight random discs as instances, smooth regions as semantic labels."""
    stride = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
    workload = Workload(
        "", num_images, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, height // stride, width // stride
    )
    _, labels = workload.make(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    batch = []
    for label in labels:
        center = torch.rand(8, 2, 1, 1, generator=generator) * torch.tensor([[[height]], [[width]]])
        radius = (0.05 + 0.2 * torch.rand(8, 1, 1, generator=generator)) * min(height, width)
        masks = BitMasks((y - center[:, 0]) ** 2 + (x - center[:, 1]) ** 2 <= radius**2)
        instances = Instances((height, width), gt_masks=masks)
        instances.gt_boxes = masks.get_bounding_boxes()
        instances.gt_classes = torch.randint(
            cfg.MODEL.ROI_HEADS.NUM_CLASSES, (8,), generator=generator
        )
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "sem_seg": label, "instances": instances})
    return batch


def measure(cfg: CfgNode, batch: list[dict], device: torch.device, seconds: float) -> list[dict]:
    """Rows of the table, one for each loss of the semantic head."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    cfg = cfg.clone()
    cfg.SOLVER.BASE_LR = 0.0
    optimizer = build_optimizer(cfg, model)
    head = model.sem_seg_head
    variants = {
        DETECTRON2: functools.partial(SemSegFPNHead.losses, head),
        FUSED: our_losses(head, cfg, "CrossEntropyLoss"),
        LOVASZ: our_losses(head, cfg, "CrossEntropyLovaszLoss"),
    }
    calls = {
        name: functools.partial(step, model, optimizer, losses, batch)
        for name, losses in variants.items()
    }
    wall, cpu = common.interleave(calls, device, seconds=seconds)
    of_loss = {} if device.type == "cuda" else time_losses(model, optimizer, variants, batch)
    rest = common.median([x for times in cpu.values() for x in times] or [0.0])
    rest -= common.median([x for times in of_loss.values() for x in times] or [0.0])
    rows = []
    for name, call in calls.items():
        row = {"loss of the semantic head": name, "repeats": len(wall[name])}
        for unit, times in {"ms": wall, "CPU ms": cpu}.items():
            if times[name]:
                value = common.median(times[name])
                row[unit] = 1e3 * value
                row[f"{unit} / Detectron2's"] = value / common.median(times[DETECTRON2])
                row[f"{unit} / fused CE"] = value / common.median(times[FUSED])
        if name in of_loss:
            own, theirs = common.median(of_loss[name]), common.median(of_loss[DETECTRON2])
            row["loss, CPU ms"] = 1e3 * own
            row["on the same rest / Detectron2's"] = (rest + own) / (rest + theirs)
        if device.type == "cuda":
            row["peak MB"] = common.peak_extra_memory(call, device) / 1e6
        rows.append(row)
    return rows


class _Timed(torch.autograd.Function):
    """A loss whose gradient is computed at once, so that both passes can be timed together."""

    @staticmethod
    def forward(ctx, logits, losses, targets, seconds):
        start = time.process_time()
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            total = sum(losses(leaf, targets).values())
            (gradient,) = torch.autograd.grad(total, leaf)
        seconds.append(time.process_time() - start)
        ctx.save_for_backward(gradient)
        return total.detach()

    @staticmethod
    def backward(ctx, arriving):
        return arriving * ctx.saved_tensors[0], None, None, None


def time_losses(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    variants: dict[str, Callable],
    batch: list[dict],
    repeats: int = 15,
) -> dict[str, list[float]]:
    """CPU seconds of each loss, forward and backward, in whole steps that take turns."""
    spent: dict[str, list[float]] = {name: [] for name in variants}

    def timed(predictions: torch.Tensor, targets: torch.Tensor, *, name: str) -> dict:
        loss = _Timed.apply(predictions, variants[name], targets, spent[name])
        return {"loss_sem_seg": loss}

    for _ in range(repeats):
        for name in variants:
            step(model, optimizer, functools.partial(timed, name=name), batch)
    return spent


def our_losses(head: SemSegFPNHead, cfg: CfgNode, name: str) -> Callable:
    cfg = cfg.clone()
    cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME = name
    loss = build_sem_seg_loss(cfg).to(cfg.MODEL.DEVICE)

    def losses(predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {key: head.loss_weight * value for key, value in loss(predictions, targets).items()}

    return losses


def step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, losses: Callable, batch: list[dict]
) -> None:
    """One training step with ``losses`` in the semantic head, drawing the same random numbers."""
    torch.manual_seed(0)
    model.sem_seg_head.losses = losses
    optimizer.zero_grad()
    sum(model(batch).values()).backward()
    optimizer.step()


if __name__ == "__main__":
    main()
