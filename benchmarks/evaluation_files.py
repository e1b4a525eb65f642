"""Panoptic quality of PNG folders: this project beside its peers, on one core, in one run.

    python -m benchmarks.evaluation_files

Everyone gets the same JSON files and folders of PNGs, in turn, on one core, in CPU time, which
other programs change less than time, and gives PQ of three versions of them: as they are; with
every `area` of the ground truth's JSON ten times too small; and with a third of its segments being
crowds. Peers that are not installed (`pip install -r requirements-bench.txt`) are left out.

this project     `evaluate_submission`, which `tools.evaluate` calls; besides PQ it counts what
                 mIoU, sizes and intervals are made of. Then with boundaries, too.
hotcoco          `panoptic.pq_compute`, which is made of Rust.
panopticapi      `pq_compute_single_core`, the reference.
vernier          `panoptic.Evaluator`, in Rust; takes label maps, so its own decoder reads the PNGs.
torchmetrics     `detection.PanopticQuality`; takes category and instance by pixel, made here from
                 what this project's reader gives. It has no crowds.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from panoptic_lovasz.data.id_map import read_panoptic_png, write_panoptic_png
from panoptic_lovasz.evaluation.pixels import find_positions
from panoptic_lovasz.evaluation.submission import evaluate_submission

from .common import median, print_table, write_table
from .label_maps import wavy_cells

NUM_CATEGORIES, NUM_THINGS = 133, 80
SLOW = 20  # seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--height", type=int, default=427, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=640, help="(%(default)s)")
    parser.add_argument("--segments", type=int, default=30, help="per image (%(default)s)")
    parser.add_argument("--num-images", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--csv", default="output/benchmarks/evaluation_files.csv")
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, args)
        contestants, pq, times = dict(CONTESTANTS), {}, {}
        for name, call in CONTESTANTS.items():
            try:
                pq[name], seconds = timed(call, folder, "gt")
            except ModuleNotFoundError as error:
                print(f"left out: {error}")
                del contestants[name]
                continue
            # The first call warms up, but for one that takes minutes it is all there is.
            times[name] = [seconds] if seconds > SLOW else []
        for _ in range(args.rounds):
            for name, call in contestants.items():
                if not times[name] or times[name][0] < SLOW:
                    times[name].append(timed(call, folder, "gt")[1])
        rows = [
            {
                "": name,
                "ms per image": 1e3 * median(times[name]) / args.num_images,
                "PQ": pq[name],
                "PQ, areas wrong in the JSON": call(folder, "gt_area"),
                "PQ, some are crowds": call(folder, "gt_crowd"),
            }
            for name, call in contestants.items()
        ]
    print_table(rows)
    write_table(rows, Path(args.csv))


def make_files(folder, args):
    """gt.json, gt_area.json, gt_crowd.json, pred.json, and the PNGs in gt/ and pred/."""
    rng = np.random.default_rng(0)
    categories = [
        {"id": i + 1, "name": f"class {i + 1}", "isthing": int(i < NUM_THINGS)}
        for i in range(NUM_CATEGORIES)
    ]
    (folder / "gt").mkdir()
    (folder / "pred").mkdir()
    truths, predictions = [], []
    for n in range(args.num_images):
        labels = wavy_cells(args.height, args.width, args.segments, rng)
        kinds = rng.choice(NUM_CATEGORIES, args.segments, replace=False) + 1
        ids = rng.choice(2**24 - 1, args.segments, replace=False) + 1
        truth = ids[labels]
        truth[: args.height // 40] = 0
        guess = np.roll(labels, rng.integers(-4, 5, 2), axis=(0, 1)) + 1
        guessed = np.where(rng.random(args.segments) < 0.1, rng.permutation(kinds), kinds)
        for kind, id_map, of_ids, of_kinds, annotations in (
            ("gt", truth, ids, kinds, truths),
            ("pred", guess, np.arange(args.segments) + 1, guessed, predictions),
        ):
            write_panoptic_png(folder / kind / f"{n}.png", id_map)
            segments = [
                {"id": int(i), "category_id": int(c), "area": int((id_map == i).sum())}
                for i, c in zip(of_ids, of_kinds, strict=True)
            ]
            segments = [{**s, "iscrowd": 0} for s in segments if s["area"]]
            annotations.append({"image_id": n, "file_name": f"{n}.png", "segments_info": segments})
    changes = {
        "gt": lambda n, s: s,
        "gt_area": lambda n, s: {**s, "area": s["area"] // 10},
        "gt_crowd": lambda n, s: {**s, "iscrowd": int(n % 3 == 0)},
    }
    images = [{"id": n, "height": args.height, "width": args.width} for n in range(len(truths))]
    for name, change in changes.items():
        annotations = [
            {**a, "segments_info": [change(n, s) for n, s in enumerate(a["segments_info"])]}
            for a in truths
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "pred.json").write_text(json.dumps({"annotations": predictions}))


def timed(call, folder, truth):
    """What a contestant says, and its CPU seconds."""
    start = time.process_time()
    return call(folder, truth), time.process_time() - start


def ours(folder, truth, boundaries=False):
    quality = evaluate_submission(
        folder / "pred.json",
        folder / f"{truth}.json",
        folder / "pred",
        folder / "gt",
        boundaries=boundaries,
        num_workers=1,
        progress=False,
    )
    return 100 * float(np.nanmean(quality.per_class()["PQ"]))


def hotcoco(folder, truth):
    panoptic = importlib.import_module("hotcoco.panoptic")
    paths = folder / f"{truth}.json", folder / "pred.json", folder / "gt", folder / "pred"
    with contextlib.redirect_stdout(io.StringIO()):
        return 100 * panoptic.pq_compute(*map(str, paths))["All"]["pq"]


def panopticapi(folder, truth):
    evaluation = importlib.import_module("panopticapi.evaluation")
    content, predictions = _read(folder, truth)
    categories = {c["id"]: c for c in content["categories"]}
    pairs = list(zip(content["annotations"], predictions, strict=True))
    with contextlib.redirect_stdout(io.StringIO()):
        stat = evaluation.pq_compute_single_core(
            0, pairs, folder / "gt", folder / "pred", categories
        )
    return 100 * stat.pq_average(categories, isthing=None)[0]["pq"]


def vernier(folder, truth):
    panoptic = importlib.import_module("vernier.panoptic")
    content, predictions = _read(folder, truth)

    def maps(annotations, kind):
        read = {
            a["image_id"]: panoptic.decode_label_map_png(folder / kind / a["file_name"])
            for a in annotations
        }
        info = {str(a["image_id"]): a["segments_info"] for a in annotations}
        return read, json.dumps(info).encode()

    categories = json.dumps(content["categories"]).encode()
    gt = panoptic.Dataset.from_arrays(*maps(content["annotations"], "gt"), categories)
    pred = panoptic.Predictions.from_arrays(*maps(predictions, "pred"))
    return 100 * panoptic.Evaluator(parity_mode="strict").evaluate(gt, pred).pq


def torchmetrics(folder, truth):
    torch = importlib.import_module("torch")
    detection = importlib.import_module("torchmetrics.detection")
    torch.set_num_threads(1)
    content, predictions = _read(folder, truth)
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    stuff = {c["id"] for c in content["categories"]} - things
    metric = detection.PanopticQuality(things, stuff, allow_unknown_preds_category=True)
    for a, p in zip(content["annotations"], predictions, strict=True):
        pair = []
        for kind, annotation in (("pred", p), ("gt", a)):
            ids = read_panoptic_png(folder / kind / annotation["file_name"])
            segments = annotation["segments_info"]
            kinds = np.array([*(s["category_id"] for s in segments), 0, 0])
            found = kinds[find_positions(np.array([s["id"] for s in segments]), ids)]
            pair.append(torch.from_numpy(np.stack([found, ids], axis=-1)[None]))
        metric.update(*pair)
    return 100 * float(metric.compute())


def _read(folder, truth):
    content = json.loads((folder / f"{truth}.json").read_text())
    return content, json.loads((folder / "pred.json").read_text())["annotations"]


CONTESTANTS = {
    "this project": ours,
    "this project, and boundaries": lambda *args: ours(*args, boundaries=True),
    "hotcoco": hotcoco,
    "panopticapi": panopticapi,
    "vernier": vernier,
    "torchmetrics": torchmetrics,
}

if __name__ == "__main__":
    main()
