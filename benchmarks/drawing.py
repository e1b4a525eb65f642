"""Milliseconds to draw a panoptic segmentation: this project beside Detectron2's Visualizer.

    python -m benchmarks.drawing

The same scenes, mosaics of generated pictures, drawn with labels at their own size by both, in
turn in one process; in CPU time, which other programs hardly change. Both start from the image, the
segment map and the list of segments, and end with an array of pixels.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.utils.visualizer import ColorMode, Visualizer

from benchmarks.common import describe, interleave, median, print_table, write_table
from panoptic_lovasz.data import PanopticClasses
from panoptic_lovasz.data.shapes import SHAPES_CATEGORIES, draw_scene
from panoptic_lovasz.visualization import draw_panoptic


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[480, 1024, 2048])
    parser.add_argument("--seconds", type=float, default=10, help="per contestant (%(default)s)")
    parser.add_argument("--csv", type=Path, default="output/benchmarks/drawing.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe(torch.device("cpu")))
    rows = [measure(size, args.seconds) for size in args.sizes]
    print_table(rows)
    write_table(rows, args.csv)


def measure(size, seconds):
    image, seg, segments = make_mosaic(size)
    fields = PanopticClasses.from_categories(SHAPES_CATEGORIES).metadata()
    metadata = Metadata(**fields)

    def detectron2():
        visualizer = Visualizer(image, metadata, instance_mode=ColorMode.SEGMENTATION)
        output = visualizer.draw_panoptic_seg(torch.as_tensor(seg), [dict(s) for s in segments])
        return output.get_image()

    def ours():
        return draw_panoptic(image, seg, segments, metadata, scale=1)

    calls = {"Visualizer": detectron2, "draw_panoptic": ours}
    assert all(call().shape == image.shape for call in calls.values())
    _, cpu = interleave(calls, torch.device("cpu"), seconds=seconds)
    times = {name: 1e3 * median(values) for name, values in cpu.items()}
    return {
        "pixels": f"{size}x{size}",
        "segments": len(segments),
        **{f"{name} (ms)": ms for name, ms in times.items()},
        "ratio": times["Visualizer"] / times["draw_panoptic"],
    }


def make_mosaic(size):
    """Four scenes in one picture: image, segment map and segments."""
    classes = PanopticClasses.from_categories(SHAPES_CATEGORIES)
    rng = np.random.default_rng(0)
    image = np.zeros((size, size, 3), np.uint8)
    seg = np.zeros((size, size), np.int32)
    segments = []
    half = size // 2
    for corner in range(4):
        y, x = half * (corner // 2), half * (corner % 2)
        pixels, ids, found = draw_scene(rng, half)
        image[y : y + half, x : x + half] = pixels
        seg[y : y + half, x : x + half] = np.where(ids > 0, ids + 1000 * corner, 0)
        for s in found:
            isthing, category = classes.from_dataset_id[s["category_id"]]
            segment_id = s["id"] + 1000 * corner
            segments.append({"id": segment_id, "isthing": isthing, "category_id": category})
    return image, seg, segments


if __name__ == "__main__":
    main()
