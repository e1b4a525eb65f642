"""Milliseconds per image of panoptic quality: this project beside panopticapi, on one core.

    python -m benchmarks.evaluation

Three comparisons of the same images, in turn, image by image, in one process on one core, in CPU
time, which other programs hardly change; both sides give the same figures, which is checked.

counting           Two label maps in memory -> counts. panopticapi has no such interface: its
                   reading of PNGs is replaced by the maps. With and without telling pixels near
                   boundaries from others, which panopticapi does not do.
model output       A prediction in memory and the ground-truth PNG -> counts. Detectron2's
                   COCOPanopticEvaluator encodes the prediction as a PNG; panopticapi reads it back.
submission files   Two PNGs on disk -> counts. Both sides must decode both.

In all rows ours also counts a pixel confusion matrix and PQ by size, and in all but the first
those of pixels away from boundaries. The last table is the memory that evaluators hold after a
number of images.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
import tracemalloc
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from panopticapi import evaluation as panopticapi
from tabulate import tabulate

from panoptic_lovasz.data import PanopticSample, register_coco_panoptic, write_coco_panoptic
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.evaluation import PanopticQuality, PanopticQualityEvaluator
from panoptic_lovasz.evaluation.ground_truth import PanopticGroundTruth

from . import common
from .label_maps import wavy_cells

NAME = "benchmark_evaluation"
NUM_CATEGORIES = 133


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--height", type=int, default=480, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=640, help="(%(default)s)")
    parser.add_argument("--segments", type=int, default=30, help="per image (%(default)s)")
    parser.add_argument("--num-images", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="over all images (%(default)s)")
    parser.add_argument("--csv", default="output/benchmarks/evaluation.csv")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = make_images(Path(folder), args)
        rows = measure(images, Path(folder), args.rounds)
        memory = measure_memory(images)
    print(tabulate(rows, headers="keys", floatfmt=".2f"), end="\n\n")
    print(tabulate(memory, headers="keys", floatfmt=".2f"))
    common.write_table(rows, Path(args.csv))


def make_images(folder, args):
    """Register a ground truth; return the model's inputs and outputs for it."""
    rng = np.random.default_rng(0)
    categories = [
        {"id": i + 1, "name": f"class {i + 1}", "isthing": int(i < 80)}
        for i in range(NUM_CATEGORIES)
    ]
    (folder / "images").mkdir()
    (folder / "pred").mkdir()
    samples, outputs = [], []
    for n in range(args.num_images):
        labels = wavy_cells(args.height, args.width, args.segments, rng)
        png_ids = rng.choice(2**24 - 1, args.segments, replace=False) + 1
        kinds = rng.choice(NUM_CATEGORIES, args.segments, replace=False)
        truth = png_ids[labels]
        truth[: args.height // 40] = 0
        segments = [
            {"id": int(i), "category_id": int(c) + 1} for i, c in zip(png_ids, kinds, strict=True)
        ]
        samples.append(PanopticSample(f"{n}.jpg", truth, segments))
        (folder / "images" / f"{n}.jpg").touch()
        guess = np.roll(labels, rng.integers(-4, 5, 2), axis=(0, 1)) + 1
        guess_kinds = np.where(rng.random(args.segments) < 0.1, rng.permutation(kinds), kinds)
        outputs.append(model_output(guess, guess_kinds))
    paths = folder / "gt.json", folder / "images", folder / "gt"
    write_coco_panoptic(paths[0], paths[2], categories, samples, progress=False)
    register_coco_panoptic(NAME, *paths)
    return list(zip(DatasetCatalog.get(NAME), outputs, strict=True))


def model_output(labels, kinds):
    """``panoptic_seg`` as Detectron2's Panoptic FPN returns it."""
    info = []
    for i in np.unique(labels).tolist():
        isthing = bool(kinds[i - 1] < 80)
        class_id = int(kinds[i - 1] if isthing else kinds[i - 1] - 79)
        info.append({"id": i, "isthing": isthing, "category_id": class_id})
    return {"panoptic_seg": (torch.from_numpy(labels.astype(np.int32)), info)}


def measure(images, folder, rounds):
    """One table row per comparison: median milliseconds of both sides and their ratio."""
    truth = PanopticGroundTruth(NAME)
    categories = {c["id"]: c for c in truth.categories}
    folders = truth.metadata.panoptic_root, folder / "pred"
    theirs_of_output = COCOPanopticEvaluator(NAME)
    ours_of_output = PanopticQualityEvaluator(NAME, ground_truth=truth)
    ours = {
        "counting": PanopticQuality(truth.categories, boundaries=False),
        "counting, and boundaries": PanopticQuality(truth.categories),
        "submission files": PanopticQuality(truth.categories),
    }
    theirs = defaultdict(panopticapi.PQStat)
    times = defaultdict(list)

    @contextlib.contextmanager
    def timed(*key):
        start = time.process_time()
        yield
        times[key].append(time.process_time() - start)

    def reference(gt, pred):
        with contextlib.redirect_stdout(io.StringIO()):
            return panopticapi.pq_compute_single_core(0, [(gt, pred)], *folders, categories)

    for image, output in images * rounds:
        annotation = truth.annotation(image)
        gt = {
            "image_id": image["image_id"],
            "file_name": Path(annotation.png).name,
            "segments_info": [
                {**s, "area": a["area"]}
                for s, a in zip(annotation.segments, image["segments_info"], strict=True)
            ],
        }
        with timed("model output", "ours"):
            ours_of_output.process([image], [output])
        with timed("model output", "theirs"):
            copied = [dict(s) for s in output["panoptic_seg"][1]]  # it changes its input
            theirs_of_output.reset()
            theirs_of_output.process(
                [image], [{"panoptic_seg": (output["panoptic_seg"][0], copied)}]
            )
            (pred,) = theirs_of_output._predictions
            (folder / "pred" / pred["file_name"]).write_bytes(pred.pop("png_string"))
            stat = reference(gt, pred)
        theirs["model output"] += stat

        png = folder / "pred" / pred["file_name"]
        gt_ids, pred_ids = read_panoptic_png(annotation.png), read_panoptic_png(png)
        for name in ("counting", "counting, and boundaries"):
            with timed(name, "ours"):
                ours[name].add(gt_ids, annotation.segments, pred_ids, pred["segments_info"])
        maps = [gt_ids.astype(np.uint32), pred_ids.astype(np.uint32)]
        with (
            mock.patch.object(panopticapi.Image, "open", lambda path, maps=maps: maps.pop(0)),
            mock.patch.object(panopticapi, "rgb2id", lambda ids: ids),
            timed("counting", "theirs"),
        ):
            stat = reference(gt, pred)
        theirs["counting"] += stat

        with timed("submission files", "ours"):
            ours["submission files"].add(
                read_panoptic_png(annotation.png),
                annotation.segments,
                read_panoptic_png(png),
                pred["segments_info"],
            )
        with timed("submission files", "theirs"):
            stat = reference(gt, pred)
        theirs["submission files"] += stat

    ours["model output"] = ours_of_output._quality
    theirs["counting, and boundaries"] = theirs["counting"]
    times["counting, and boundaries", "theirs"] = times["counting", "theirs"]
    rows = []
    for name in ("counting", "counting, and boundaries", "model output", "submission files"):
        check_equal(ours[name], theirs[name])
        our_ms, their_ms = (1e3 * np.median(times[name, side]) for side in ("ours", "theirs"))
        rows.append(
            {
                "ms per image": name,
                "ours": our_ms,
                "panopticapi": their_ms,
                "times faster": their_ms / our_ms,
            }
        )
    return rows


def check_equal(quality, stat):
    for i, category in enumerate(quality.categories):
        expected = stat[category["id"]]
        iou, *counts = (values[i] for values in quality.segments.sum())
        if counts != [expected.tp, expected.fp, expected.fn]:
            raise AssertionError(f"{category}: {counts} differs from {vars(expected)}")
        if abs(iou - expected.iou) > 1e-9 * max(1, expected.iou):
            raise AssertionError(f"{category}: {iou} != {expected.iou}")


def measure_memory(images):
    """MiB that each evaluator holds after some images, from tracemalloc."""
    evaluators = {
        "ours": PanopticQualityEvaluator(NAME),
        "Detectron2's COCOPanopticEvaluator": COCOPanopticEvaluator(NAME),
    }
    rows = []
    for name, evaluator in evaluators.items():
        row = {"MiB held after": name}
        evaluator.reset()
        tracemalloc.start()
        for n in range(1, 201):
            image, output = images[n % len(images)]
            ids, segments = output["panoptic_seg"]
            copied = [dict(s) for s in segments]
            evaluator.process([image], [{"panoptic_seg": (ids.clone(), copied)}])
            if n in (1, 50, 200):
                row[f"{n} images"] = tracemalloc.get_traced_memory()[0] / 2**20
        tracemalloc.stop()
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
