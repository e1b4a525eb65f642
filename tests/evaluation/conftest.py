"""A tiny registered data set with things, stuff, void and a crowd, and model outputs for it."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from panoptic_lovasz.data import (
    PanopticClasses,
    PanopticSample,
    register_coco_panoptic,
    write_coco_panoptic,
)
from panoptic_lovasz.data.id_map import read_panoptic_png

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 11, "name": "cat", "isthing": 1},
    {"id": 20, "name": "road", "isthing": 0},
    {"id": 31, "name": "dog", "isthing": 1},
]
SIZE = (48, 64)


def _image(rng) -> tuple[np.ndarray, list[dict]]:
    """Sky over road, two cats, a dog, a crowd of cats, a void corner."""
    ids = np.full(SIZE, 1000)
    ids[24:] = 70000
    for segment_id, (y, x), size in ((3, (5, 5), 14), (4, (8, 30), 12), (5, (28, 10), 16)):
        y, x = y + rng.integers(4), x + rng.integers(4)
        ids[y : y + size, x : x + size] = segment_id
    ids[30:40, 45:60] = 6
    ids[:6, -6:] = 0
    category = {1000: 7, 70000: 20, 3: 11, 4: 11, 5: 31, 6: 11}
    segments = [{"id": i, "category_id": c, "iscrowd": int(i == 6)} for i, c in category.items()]
    return ids, segments


@pytest.fixture
def dataset(tmp_path) -> str:
    """Name of a registered data set of four images."""
    rng = np.random.default_rng(0)
    images, panoptic, json_file = (tmp_path / n for n in ("images", "panoptic", "panoptic.json"))
    images.mkdir()
    samples = []
    for n in range(4):
        ids, segments = _image(rng)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(images / f"{n}.jpg")
        samples.append(PanopticSample(f"{n}.jpg", ids, segments, image_id=10 + n))
    write_coco_panoptic(json_file, panoptic, CATEGORIES, samples, progress=False)
    name = f"toy_{tmp_path.name}"
    register_coco_panoptic(name, json_file, images, panoptic)
    return name


def model_output(record: dict, classes: PanopticClasses, perturb=lambda ids: ids) -> dict:
    """What Panoptic FPN would return for a dataset dict if it saw the ground truth, perturbed."""
    truth = read_panoptic_png(record["pan_seg_file_name"])
    info = {s["id"]: s for s in record["segments_info"] if not s.get("iscrowd")}
    ids = perturb(np.where(np.isin(truth, list(info)), truth, 0))
    present = [i for i in np.unique(ids).tolist() if i]
    panoptic, segments = np.zeros(ids.shape, np.int32), []
    semantic = np.zeros(ids.shape, np.int64)
    things = []
    for new_id, old_id in enumerate(present, start=1):
        isthing, class_id = classes.segment_class(info[old_id])
        panoptic[ids == old_id] = new_id
        semantic[ids == old_id] = 0 if isthing else class_id
        segments.append({"id": new_id, "isthing": isthing, "category_id": class_id})
        if isthing:
            things.append((class_id, ids == old_id))
    instances = Instances(ids.shape)
    masks = torch.tensor(np.array([m for _, m in things])).reshape(-1, *ids.shape)
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(torch.tensor([_box(m) for m in masks]).reshape(-1, 4))
    instances.pred_classes = torch.tensor([c for c, _ in things], dtype=torch.int64)
    instances.scores = torch.ones(len(things))
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(semantic), classes.num_semantic)
    return {
        "panoptic_seg": (torch.from_numpy(panoptic), segments),
        "sem_seg": one_hot.permute(2, 0, 1),
        "instances": instances,
    }


def _box(mask: torch.Tensor) -> list[float]:
    y, x = mask.nonzero().T
    return [float(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)]


def shifted(ids: np.ndarray) -> np.ndarray:
    """Everything a few pixels off, and a strip that is not predicted."""
    ids = np.roll(ids, (3, 2), axis=(0, 1))
    ids[:, :5] = 0
    return ids


def model_outputs(dataset: str, perturb=lambda ids: ids) -> tuple[list[dict], list[dict]]:
    """Inputs and outputs of a model on a whole registered data set."""
    inputs = DatasetCatalog.get(dataset)
    classes = PanopticClasses.from_metadata(MetadataCatalog.get(dataset))
    return inputs, [model_output(record, classes, perturb) for record in inputs]


@pytest.fixture
def outputs(dataset):
    """Imperfect (inputs, outputs) of a model on the whole data set; a fresh copy each call."""
    made = model_outputs(dataset, shifted)
    return lambda: copy.deepcopy(made)


@pytest.fixture
def perfect_outputs(dataset):
    """(inputs, outputs) of a model that predicts the ground truth."""
    return model_outputs(dataset)


@pytest.fixture
def predict_perfectly():
    """Function of a data set's name that returns (inputs, outputs) as ``perfect_outputs``."""
    return model_outputs
