"""Ways to damage a data set, and what becomes of one that is used."""

import io
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from tiny_set import CATEGORIES, TinySet

from panoptic_lovasz.data import (
    PanopticClasses,
    PanopticFPNDatasetMapper,
    get_panoptic_classes,
    get_panoptic_dataset_dicts,
    register_coco_panoptic,
)
from panoptic_lovasz.data.checking import check_coco_panoptic
from panoptic_lovasz.data.id_map import read_panoptic_png, write_panoptic_png
from panoptic_lovasz.errors import ConfigError, DatasetError
from panoptic_lovasz.inference.images import as_rgb

VALUES = (
    None, True, -1, 0, 1, 1.5, float("nan"), float("inf"), 2**31, 2**70, -(2**70), "", "x", "\0",
    "\ud800", "a" * 5000, "../../..", "/", ".", [], [[]], [None], {}, {"id": 1}, [1, 2, 3, 4],
)  # fmt: skip
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F")
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM")


def places(node, path=()):
    """Paths to all values in a JSON document."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in children:
        yield (*path, key)
        if isinstance(child, (dict, list)):
            yield from places(child, (*path, key))


def mutate_json(tiny, rng):
    """Fields of the JSON removed or of other types and values."""
    content = tiny.content
    for _ in range(rng.integers(1, 3)):
        options = list(places(content))
        *parents, last = options[rng.integers(len(options))]
        target = content
        for key in parents:
            target = target[key]
        if rng.random() < 0.25:
            del target[last]
        else:
            target[last] = VALUES[rng.integers(len(VALUES))]
    tiny.json.write_text(json.dumps(content))


def mutate_json_text(tiny, rng):
    """Bytes of the JSON changed, or cut off."""
    data = bytearray(tiny.json.read_bytes())
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] = rng.integers(256)
    tiny.json.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.3 else data)


def mutate_image(tiny, rng):
    """Images and id PNGs damaged, missing, or of other kinds and sizes."""
    folder = (tiny.images, tiny.panoptic)[rng.integers(2)]
    file = sorted(folder.iterdir())[rng.integers(2)]
    data = file.read_bytes()
    kind = rng.integers(6)
    if kind == 0:
        file.write_bytes(data[: rng.integers(len(data))])
    elif kind == 1:
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 6)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        file.write_bytes(damaged)
    elif kind == 2:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
    elif kind == 3:
        file.write_bytes(rng.bytes(rng.integers(300)))
    else:
        size = (8, 6) if kind == 4 else tuple(rng.integers(1, 40, 2).tolist())
        file.write_bytes(other_image(rng, size))


def other_image(rng, size):
    """An image of any mode and format that can be written."""
    while True:
        buffer = io.BytesIO()
        try:
            image = Image.new(MODES[rng.integers(len(MODES))], size)
            exif = Image.Exif()
            exif[274] = int(rng.integers(0, 12))
            image.save(buffer, format=FORMATS[rng.integers(len(FORMATS))], exif=exif)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return buffer.getvalue()


def mutate_depth(tiny, rng):
    """Images of other bit depths, and turned by EXIF, some with the sizes to match."""
    n = rng.integers(2)
    record = tiny.content["images"][n]
    kinds = (
        ("PNG", rng.integers(0, 2**16, (6, 8), dtype=np.uint16)),
        ("TIFF", rng.integers(0, 2**17, (6, 8), dtype=np.int32)),
        ("TIFF", rng.random((6, 8), dtype=np.float32)),
        ("PNG", rng.integers(0, 2, (6, 8)).astype(bool)),
        ("JPEG", rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)),
        ("TIFF", rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)),
    )
    kind, pixels = kinds[rng.integers(len(kinds))]
    exif = Image.Exif()
    exif[274] = int(rng.integers(1, 9))
    image = Image.fromarray(pixels)
    image.save(tiny.images / record["file_name"], format=kind, exif=exif)
    if exif[274] >= 5 and rng.random() < 0.7:  # upright sizes, with an id PNG to match or not
        record["width"], record["height"] = 6, 8
        if rng.random() < 0.7:
            png = tiny.panoptic / tiny.content["annotations"][n]["file_name"]
            write_panoptic_png(png, np.rot90(read_panoptic_png(png)))
    tiny.save()


def mutate_ids(tiny, rng):
    """Ids as text for numbers, of nothing, or there twice."""
    content = tiny.content
    for record in (*content["images"], *content["annotations"]):
        name = "id" if "id" in record else "image_id"
        if rng.random() < 0.5:
            record[name] = (str(record[name]), 11, 12, float(record[name]), 99)[rng.integers(5)]
    tiny.save()


def mutate_files(tiny, rng):
    """What systems leave behind, byte-order marks, links, pipes, names that lead out."""
    folder, records = (
        (tiny.images, tiny.content["images"]),
        (tiny.panoptic, tiny.content["annotations"]),
    )[rng.integers(2)]
    record = records[rng.integers(2)]
    file = folder / record["file_name"]
    kind = rng.integers(7)
    if kind == 0:
        (folder / "._a.png").write_bytes(b"\0\5\x16\7")
        shutil.copytree(folder, folder / ".ipynb_checkpoints")
    elif kind == 1:
        tiny.json.write_bytes(b"\xef\xbb\xbf" + tiny.json.read_bytes())
    elif kind == 2:
        (folder / "city").mkdir()
        file.rename(folder / "city" / file.name)
        record["file_name"] = f"city\\{file.name}"
        tiny.save()
    elif kind == 3:
        file.unlink()
        os.mkfifo(file)
    else:
        file.rename(tiny.root / file.name)
        if kind == 4:
            file.symlink_to(tiny.root / file.name)
        elif kind == 5:
            file.symlink_to("/dev/zero")
        else:
            record["file_name"] = f"../{file.name}"
            tiny.save()


MUTATIONS = {
    "json": mutate_json,
    "json text": mutate_json_text,
    "image": mutate_image,
    "depth": mutate_depth,
    "ids": mutate_ids,
    "files": mutate_files,
}


def damage(sound, root, name, seed):
    """A copy of a TinySet in another folder, damaged in one of the ways of MUTATIONS."""
    damaged = TinySet(Path(root))
    shutil.copytree(sound.root, damaged.root)
    MUTATIONS[name](damaged, np.random.default_rng(seed))
    return damaged


def use(tiny, train):
    """Check, register, load, map and train, as a user does."""
    check_coco_panoptic(*tiny.paths, workers=1, progress=False)
    register_coco_panoptic("hostile", *tiny.paths)
    dicts = get_panoptic_dataset_dicts("hostile")
    mapper = PanopticFPNDatasetMapper(
        True,
        augmentations=[T.ResizeShortestEdge(12, 60), T.RandomFlip()],
        image_format="BGR",
        classes=get_panoptic_classes(["hostile"]),
    )
    plain = PanopticFPNDatasetMapper(False, augmentations=[], image_format="RGB")
    for record in dicts:  # training, evaluation and prediction see the same pixels
        read = as_rgb(record["file_name"])
        assert (plain(record)["image"].numpy() == read.transpose(2, 0, 1)).all()
    labels = {*range(mapper.classes.num_semantic), 255}
    batch = [mapper(d) for d in dicts]
    for mapped in batch:
        assert mapped["image"].shape[1:] == mapped["sem_seg"].shape
        assert set(mapped["sem_seg"].unique().tolist()) <= labels
        assert (mapped["instances"].gt_boxes.area() > 0).all()
    if batch and mapper.classes == PanopticClasses.from_categories(CATEGORIES):
        train(batch)


def outcome(tiny, train=lambda batch: None):
    """The message of the error that using a data set ends in, or None.

    ``train`` gets the mapped images if the damage left the categories as they were.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about damaged files
            use(tiny, train)
    except (DatasetError, ConfigError) as error:
        return str(error)
    finally:
        if "hostile" in DatasetCatalog.list():
            DatasetCatalog.remove("hostile")
            MetadataCatalog.pop("hostile", None)
    return None


def training_step(cfg):
    """One step of SGD on a network for the categories of TinySet: a function of a batch."""
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(batch):
        torch.manual_seed(0)
        with EventStorage():
            loss = sum(model(batch).values())
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
