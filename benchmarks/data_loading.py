"""Images per second and worker: our mapper beside Detectron2's own, on the same images.

    python -m benchmarks.data_loading
    python -m benchmarks.data_loading --json J --images DIR --panoptic DIR   (your data)

Detectron2's mapper reads what its Panoptic FPN is prepared with: a PNG of semantic labels, and
annotations as polygons (its default) or run-length masks. Both are derived from the same panoptic
data beforehand, so all rows describe the same pixels, with the same augmentations and random
numbers. The rows are measured in turn, image by image, in one process with one thread; the time is
that of the processor, so that other programs disturb it less.
"""

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from tabulate import tabulate

from panoptic_lovasz.data import (
    IGNORE_LABEL,
    PanopticClasses,
    PanopticFPNDatasetMapper,
    load_coco_panoptic_json,
    make_shapes,
    mapper,
)
from panoptic_lovasz.data.coco_panoptic import read_coco_panoptic_json
from panoptic_lovasz.data.id_map import read_panoptic_png

from . import common


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", help="a COCO panoptic JSON; by default shapes at COCO's size")
    parser.add_argument("--images", help="its folder of images")
    parser.add_argument("--panoptic", help="its folder of id PNGs")
    parser.add_argument("--num-images", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="over all images (%(default)s)")
    parser.add_argument("--csv", default="output/benchmarks/data_loading.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.json is None:
            args.json, args.images, args.panoptic = _shapes_at_coco_size(folder, args.num_images)
        rows = measure(args, Path(folder))
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    common.write_table(rows, Path(args.csv))


def measure(args, folder):
    """Time every mapper, and the parts of ours; one table row each."""
    categories = read_coco_panoptic_json(args.json)["categories"]
    classes = PanopticClasses.from_categories(categories, args.json)
    dicts = load_coco_panoptic_json(args.json, args.images, args.panoptic)[: args.num_images]
    separated = [_separate(d, n, folder) for n, d in enumerate(dicts)]
    augmentations = [
        T.ResizeShortestEdge((640, 672, 704, 736, 768, 800), 1333, "choice"),
        T.RandomFlip(),
    ]
    options = {"is_train": True, "augmentations": augmentations, "image_format": "BGR"}
    theirs = {
        mask_format: DatasetMapper(
            **options, use_instance_mask=True, instance_mask_format=mask_format
        )
        for mask_format in ("polygon", "bitmask")
    }
    ours = PanopticFPNDatasetMapper(**options, classes=classes)
    jobs = {
        "Detectron2, polygons": [(theirs["polygon"], s["polygon"]) for s in separated],
        "Detectron2, bitmasks": [(theirs["bitmask"], s["bitmask"]) for s in separated],
        "ours, bitmasks": [(ours, d) for d in dicts],
    }
    times = defaultdict(list)
    for round_, n in itertools.product(range(args.rounds + 1), range(len(dicts))):
        for name, job in jobs.items():
            mapper_, dataset_dict = job[n]
            np.random.seed(1000 * round_ + n)  # noqa: NPY002
            start = time.process_time()
            mapper_(dataset_dict)
            if round_:  # the first round warms up
                times[name].append(time.process_time() - start)
    whole = {name: _row(name, seconds) for name, seconds in times.items()}
    return [*whole.values(), *_parts(ours, dicts, args.rounds)]


def _row(name, seconds):
    median = float(np.median(seconds))
    return {"what": name, "ms per image": 1e3 * median, "images/s per worker": 1 / median}


def _parts(ours, dicts, rounds):
    """Median time of the parts of our mapper."""
    parts = {
        "  read the image": (mapper, "read_image"),
        "  read the id PNG": (mapper, "read_panoptic_png"),
        "  number the segments": (mapper, "_index_map"),
        "  augment both": (T.AugmentationList, "__call__"),
        "  derive instances": (mapper, "_instances"),
        "  image to tensor": (mapper, "_to_tensor"),
    }
    times = defaultdict(list)
    originals = {name: getattr(*place) for name, place in parts.items()}

    def timed(name):
        def call(*args, **kwargs):
            start = time.process_time()
            result = originals[name](*args, **kwargs)
            times[name].append(time.process_time() - start)
            return result

        return call

    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, timed(name))
    try:
        for dataset_dict in dicts * rounds:
            ours(dataset_dict)
    finally:
        for name, (owner, attribute) in parts.items():
            setattr(owner, attribute, originals[name])
    return [{"what": name, "ms per image": 1e3 * float(np.median(times[name]))} for name in parts]


def _separate(dataset_dict, n, folder):
    """The two forms of the annotation that Detectron2's mapper takes."""
    ids = read_panoptic_png(dataset_dict["pan_seg_file_name"])
    sem_seg = np.full(ids.shape, IGNORE_LABEL, np.uint8)
    annotations = {"polygon": [], "bitmask": []}
    for segment in dataset_dict["segments_info"]:
        mask = ids == segment["id"]
        if segment["iscrowd"]:
            continue
        sem_seg[mask] = 0 if segment["isthing"] else segment["category_id"]
        if not segment["isthing"] or not mask.any():
            continue
        contours, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        polygons = [c.flatten().tolist() for c in contours if len(c) >= 3]
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        shared = {
            "category_id": segment["category_id"],
            "iscrowd": 0,
            "bbox": [x, y, w, h],
            "bbox_mode": BoxMode.XYWH_ABS,
        }
        annotations["bitmask"].append({**shared, "segmentation": rle})
        if polygons:
            annotations["polygon"].append({**shared, "segmentation": polygons})
    png = folder / f"sem_seg_{n}.png"
    Image.fromarray(sem_seg).save(png)
    base = {k: dataset_dict[k] for k in ("file_name", "image_id", "height", "width")}
    return {
        kind: {**base, "sem_seg_file_name": str(png), "annotations": annotation}
        for kind, annotation in annotations.items()
    }


def _shapes_at_coco_size(folder, num_images):
    """Shapes of 640 x 640 pixels, the images as JPEG as in COCO."""
    root = make_shapes(Path(folder) / "shapes", num_train=num_images, num_val=1, size=640)
    for png in (root / "train").glob("*.png"):
        image = Image.open(png)
        image.save(png, format="JPEG", quality=92)
    return root / "annotations/train.json", root / "train", root / "panoptic_train"


if __name__ == "__main__":
    main()
