"""Post-processing and merging beside Detectron2's, and the whole ``DefaultPredictor`` call.

    python -m benchmarks.inference
    python -m benchmarks.inference --device cuda

Both sides get the same raw outputs (logits at stride 4, boxes, 28 x 28 mask probabilities) and
return the same bits, which is checked before anything is timed. Time: both take turns in one
process, median of the repeats. Memory: peak beyond what was held before; on the CPU resident memory
in a fresh process. Synchronisations (CUDA only): how often the host waits for the device.

"sem_seg read" also reads the full-size logits, which ours computes on demand. The predictor has an
R50 backbone and random weights; its score thresholds are lowered so that it finds instances.
Written to --output as CSV.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from panoptic_lovasz import load_config
from panoptic_lovasz.merging import CombineRules, postprocess_panoptic

from . import common

STRIDE = 4
RULES = CombineRules()
CONFIGS = Path(__file__).parents[1] / "configs"


@dataclasses.dataclass(frozen=True)
class Workload:
    """An image with instances, raw as the network leaves it."""

    image_size: tuple[int, int]  # of the network's input
    size: tuple[int, int]  # of the output
    instances: int = 100
    classes: int = 54

    def make(self, device: torch.device) -> tuple:
        """The arguments of ``postprocess_panoptic``."""
        generator = torch.Generator().manual_seed(0)
        padded = [-(-n // 32) * 32 for n in self.image_size]
        coarse = torch.randn(1, self.classes, *(n // 64 + 1 for n in padded), generator=generator)
        stride_4 = [n // STRIDE for n in padded]
        logits = F.interpolate(4 * coarse, size=stride_4, mode="bicubic")[0]
        logits += 0.3 * torch.randn(logits.shape, generator=generator)
        detections = make_detections(self.image_size, self.instances, generator)
        return detections.to(device), logits.to(device), self.image_size, *self.size


WORKLOADS = {
    "480x730": Workload((800, 1216), (480, 730)),
    "1024x1556": Workload((800, 1216), (1024, 1556)),
    "1024x1556-unresized": Workload((1024, 1556), (1024, 1556)),
    "2048x4096-unresized": Workload((2048, 4096), (2048, 4096)),
}
PREDICTOR = "predictor"


def make_detections(image_size: tuple[int, int], count: int, generator) -> Instances:
    """Blobs with wavy outlines, their sizes spread evenly on a logarithmic scale."""
    height, width = image_size
    uniform = functools.partial(torch.rand, generator=generator)
    sides = 15 * (0.7 * min(image_size) / 15) ** uniform(count, 2)
    centers = uniform(count, 2) * torch.tensor([width, height])
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 28)] * 2, indexing="ij")
    waves, phase = uniform(2, count, 1, 1)
    radius = x**2 + y**2 + 0.3 * waves * torch.sin(4 * torch.atan2(y, x) + 6 * phase)
    return Instances(
        image_size,
        pred_boxes=Boxes(boxes),
        scores=uniform(count),
        pred_classes=torch.randint(0, 80, (count,), generator=generator),
        pred_masks=torch.sigmoid(12 * (0.8 - radius))[:, None],
    )


def detectron2(detections, logits, image_size, height, width) -> dict:
    """The head's upsampling and the end of ``PanopticFPN.inference``."""
    logits = F.interpolate(logits[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[
        0
    ]
    sem_seg = sem_seg_postprocess(logits, image_size, height, width)
    instances = detector_postprocess(detections, height, width)
    panoptic_seg = combine_semantic_and_instance_outputs(
        instances,
        sem_seg.argmax(dim=0),
        RULES.overlap_thresh,
        RULES.stuff_area_limit,
        RULES.instances_confidence_thresh,
    )
    return {"sem_seg": sem_seg, "instances": instances, "panoptic_seg": panoptic_seg}


def ours_and_logits(*raw) -> dict:
    result = postprocess_panoptic(*raw)
    result["sem_seg"] = result["sem_seg"].materialize()
    return result


CONTESTANTS = {
    "Detectron2": detectron2,
    "ours": postprocess_panoptic,
    "ours, sem_seg read": ours_and_logits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--workloads", nargs="*", default=[*WORKLOADS, PREDICTOR], choices=[*WORKLOADS, PREDICTOR]
    )
    parser.add_argument("--threads", type=int, default=2, help="on the CPU (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="per contestant (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(common.describe(device), flush=True)
    rows = []
    for name in args.workloads:
        if name == PREDICTOR:
            new = measure_predictor(device, args.seconds)
        else:
            new = measure(name, device, args.threads, args.seconds)
        print()
        common.print_table(new)
        rows += new
    path = args.output / f"inference_{device.type}.csv"
    common.write_table(rows, path)
    print(f"\nwritten to {path}")


def measure(workload: str, device: torch.device, threads: int, seconds: float) -> list[dict]:
    """Rows of one workload."""
    raw = WORKLOADS[workload].make(device)
    calls = {name: functools.partial(run, call, raw) for name, call in CONTESTANTS.items()}
    expected = calls["Detectron2"]()
    for call in calls.values():
        assert_equal(call(), expected)
    segments = len(expected["panoptic_seg"][1])
    del expected
    wall, cpu = common.interleave(calls, device, seconds=seconds)
    rows = timed_rows(f"{workload}, {segments} segments", wall, cpu)
    for row, (name, call) in zip(rows, calls.items(), strict=True):
        row["peak MB"] = peak_memory(workload, name, device, threads) / 1e6
        row["/ Detectron2's"] = row["peak MB"] / rows[0]["peak MB"]
        row["synchronizations"] = count_synchronizations(call) if device.type == "cuda" else None
    return rows


def run(call: Callable, raw: tuple) -> dict:
    detections, *others = raw
    return call(copy.deepcopy(detections), *others)  # boxes are rescaled in place


def assert_equal(result: dict, expected: dict) -> None:
    """Raise unless all bits are the same."""
    ours, stock = result["instances"], expected["instances"]
    same = {
        "boxes": torch.equal(ours.pred_boxes.tensor, stock.pred_boxes.tensor),
        "masks": torch.equal(ours.pred_masks, stock.pred_masks),
        "panoptic_seg": torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0]),
        "segments_info": result["panoptic_seg"][1] == expected["panoptic_seg"][1],
        "labels": torch.equal(result["sem_seg"].argmax(dim=0), expected["sem_seg"].argmax(dim=0)),
        "sem_seg": torch.equal(result["sem_seg"], expected["sem_seg"]),
    }
    if not all(same.values()):
        raise AssertionError(f"not equal: {[name for name, equal in same.items() if not equal]}")


def timed_rows(workload: str, wall: common.Times, cpu: common.Times) -> list[dict]:
    base = common.median(wall["Detectron2"])
    base_cpu = common.median(cpu["Detectron2"])
    return [
        {
            "workload": workload,
            "path": name,
            "ms": 1e3 * common.median(wall[name]),
            "times faster": base / common.median(wall[name]),
            "repeats": len(wall[name]),
            "CPU ms": base_cpu and 1e3 * common.median(cpu[name]),
            "times less CPU": base_cpu and base_cpu / common.median(cpu[name]),
            "peak MB": None,
            "/ Detectron2's": None,
            "synchronizations": None,
        }
        for name in wall
    ]


def count_synchronizations(call: Callable) -> int:
    """How often a call makes the host wait for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(w.message) for w in caught)


def peak_memory(workload: str, name: str, device: torch.device, threads: int) -> int:
    """Bytes at the peak of a call; on the CPU in a fresh process."""
    if device.type == "cuda":
        return peak_memory_here(workload, name, device, threads)
    return common.in_fresh_process(peak_memory_here, workload, name, device, threads)


def peak_memory_here(workload: str, name: str, device: torch.device, threads: int) -> int:
    torch.set_num_threads(threads)
    run(CONTESTANTS[name], Workload((160, 160), (150, 150), 3).make(device))
    call = functools.partial(run, CONTESTANTS[name], WORKLOADS[workload].make(device))
    return common.peak_extra_memory(call, device)


def measure_predictor(device: torch.device, seconds: float) -> list[dict]:
    """Rows of the whole call, image in, segmentation out, at 480 x 640."""
    image = torch.randint(0, 255, (480, 640, 3), generator=torch.Generator().manual_seed(0))
    image = image.to(torch.uint8).numpy()
    torch.manual_seed(0)
    stock = predictor("detectron2", device)
    fast = predictor("fast", device)
    fast.model.load_state_dict(stock.model.state_dict())
    calls = {
        "Detectron2": lambda: stock(image),
        "ours": lambda: fast(image),
        "ours, sem_seg read": lambda: fast(image)["sem_seg"].materialize(),
    }
    assert_equal(calls["ours"](), calls["Detectron2"]())
    wall, cpu = common.interleave(calls, device, seconds=seconds)
    segments = len(fast(image)["panoptic_seg"][1])
    return timed_rows(f"DefaultPredictor 480x640, {segments} segments", wall, cpu)


def predictor(implementation: str, device: torch.device) -> DefaultPredictor:
    cfg = load_config(CONFIGS / "COCO-PanopticSegmentation/panoptic_lovasz_R_50_3x.yaml")
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.0
    cfg.MODEL.PANOPTIC_FPN.COMBINE.IMPL = implementation
    return DefaultPredictor(cfg)


if __name__ == "__main__":
    main()
