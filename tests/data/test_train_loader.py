import itertools
import multiprocessing
import random
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils import comm

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.data import build_panoptic_train_loader, register_coco_panoptic
from panoptic_lovasz.data.build import clear_loader_errors
from panoptic_lovasz.errors import ConfigError, DatasetError


@pytest.fixture
def cfg(shapes):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    paths = shapes / "annotations/train.json", shapes / "train", shapes / "panoptic_train"
    register_coco_panoptic("loaded", *paths)
    cfg.DATASETS.TRAIN = ("loaded",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.INPUT.MIN_SIZE_TRAIN = (64, 80, 96)
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SEED = 3
    return cfg


def batches(cfg, n, start_iter=0, **kwargs):
    """What the model would see, as comparable values."""
    loader = build_panoptic_train_loader(cfg, start_iter=start_iter, **kwargs)
    return [
        [
            (d["image_id"], d["image"].tolist(), d["sem_seg"].tolist(), len(d["instances"]))
            for d in batch
        ]
        for batch in itertools.islice(loader, n)
    ]


def test_a_batch_is_a_list_of_mapped_dicts(cfg):
    (batch,) = itertools.islice(build_panoptic_train_loader(cfg), 1)
    assert len(batch) == 4
    for d in batch:
        assert {"image", "sem_seg", "instances", "image_id", "height", "width"} <= d.keys()


@pytest.mark.parametrize("sampler", ["TrainingSampler", "EquiBatchSampler"])
def test_after_a_resume_the_batches_are_those_of_an_unbroken_run(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    assert batches(cfg, 2, start_iter=4) == batches(cfg, 6)[4:]


def test_batches_do_not_depend_on_the_number_of_workers(cfg):
    alone = batches(cfg, 4)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert batches(cfg, 4) == alone
    assert batches(cfg, 2, start_iter=2) == alone[2:]


def test_batches_do_not_depend_on_other_random_numbers(cfg):
    expected = batches(cfg, 3)
    loader = iter(build_panoptic_train_loader(cfg))
    seen = []
    for _ in range(3):
        torch.rand(5), np.random.rand(5), random.random()  # noqa: NPY002
        seen.append([d["image"].tolist() for d in next(loader)])
    assert seen == [[d[1] for d in batch] for batch in expected]


def test_loading_leaves_the_random_states_of_the_process_alone(cfg):
    loader = iter(build_panoptic_train_loader(cfg))
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    expected = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    next(loader)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected  # noqa: NPY002


def test_another_seed_gives_other_batches(cfg):
    first = batches(cfg, 2)
    cfg.SEED = 4
    assert batches(cfg, 2) != first


def test_images_of_one_batch_have_one_orientation_also_after_a_resume(cfg):
    def mapper(d):
        return {"index": d["image_id"], "wide": d["width"] > d["height"]}

    def shape(d):
        return {**d, "height": 100, "width": 50 if d["image_id"] % 3 else 200}

    original = build_panoptic_train_loader.__globals__["get_panoptic_dataset_dicts"]
    build_panoptic_train_loader.__globals__["get_panoptic_dataset_dicts"] = lambda *a, **k: [
        shape(d) for d in original(*a, **k)
    ]
    try:
        whole = list(itertools.islice(build_panoptic_train_loader(cfg, mapper=mapper), 20))
        tail = list(
            itertools.islice(build_panoptic_train_loader(cfg, mapper=mapper, start_iter=15), 5)
        )
    finally:
        build_panoptic_train_loader.__globals__["get_panoptic_dataset_dicts"] = original
    assert all(len({d["wide"] for d in batch}) == 1 for batch in whole)
    assert {batch[0]["wide"] for batch in whole} == {True, False}
    assert tail == whole[15:]


def test_ranks_share_out_the_batch_of_one_process(cfg, monkeypatch):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    alone = [d for batch in batches(cfg, 3) for d in batch]
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append([d for batch in batches(cfg, 3) for d in batch])
    assert list(itertools.chain(*zip(*shares, strict=True))) == alone


def test_a_batch_must_divide_evenly_among_the_processes(cfg, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH is 4, expected a multiple .* 3"):
        build_panoptic_train_loader(cfg)


def test_images_without_things_are_left_out_if_the_config_says_so(cfg, tiny_set):
    del tiny_set.content["annotations"][0]["segments_info"][1]
    tiny_set.save()
    register_coco_panoptic("tiny", *tiny_set.paths)
    cfg.DATASETS.TRAIN = ("tiny",)
    for filter_empty, expected in ((True, {12}), (False, {11, 12})):
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
        assert {d[0] for batch in batches(cfg, 2) for d in batch} == expected


def test_an_error_in_a_worker_keeps_its_type_and_names_the_file(cfg, shapes, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for png in (shapes / "train").iterdir():
        (folder / png.name).write_bytes(b"no image")
    register_coco_panoptic(
        "broken", shapes / "annotations/train.json", folder, shapes / "panoptic_train"
    )
    cfg.DATASETS.TRAIN = ("broken",)
    cfg.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(DatasetError, match=r"images/0000\d\d\.png cannot be read"):
        next(iter(build_panoptic_train_loader(cfg)))


def _without_images(cfg, shapes, tmp_path):
    """The data set in another folder, whose images are gone after it was registered."""
    shutil.copytree(shapes, tmp_path / "data")
    root = tmp_path / "data"
    paths = root / "annotations/train.json", root / "train", root / "panoptic_train"
    register_coco_panoptic("vanishing", *paths)
    cfg.DATASETS.TRAIN = ("vanishing",)
    loader = iter(build_panoptic_train_loader(cfg))
    next(loader)
    shutil.rmtree(root / "train")
    return loader


@pytest.mark.parametrize("workers", [0, 2])
def test_data_removed_during_training_is_one_error_that_names_the_file(
    cfg, shapes, tmp_path, workers
):
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = _without_images(cfg, shapes, tmp_path)
    with pytest.raises(DatasetError) as caught:
        for _ in range(20):
            next(loader)
    assert re.search(r"data/train/\d+\.png", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


def test_a_worker_that_dies_is_one_error_wherever_the_loop_is(cfg):
    cfg.DATALOADER.NUM_WORKERS = 2
    before = set(multiprocessing.active_children())  # of other tests' loaders
    loader = iter(build_panoptic_train_loader(cfg))
    next(loader)
    died = pytest.raises(OSError, match=r"a process that loads data died: .*NUM_WORKERS")
    with died, clear_loader_errors():
        (set(multiprocessing.active_children()) - before).pop().kill()
        time.sleep(5)  # a long step


def test_a_worker_leaves_the_signals_of_a_cluster_to_the_main_process_but_ends_at_its_own(cfg):
    cfg.DATALOADER.NUM_WORKERS = 1
    before = set(multiprocessing.active_children())
    loader = iter(build_panoptic_train_loader(cfg))
    next(loader)
    (worker,) = set(multiprocessing.active_children()) - before
    for _ in range(2):  # as torchrun sends it: to the process, and to its group
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    for _ in range(5):
        next(loader)
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


def test_a_worker_that_dies_while_it_sends_a_batch_is_the_same_error(cfg, monkeypatch):
    def connection_reset(self):
        yield "a batch"
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", connection_reset)
    batches = iter(build_panoptic_train_loader(cfg))
    assert next(batches) == "a batch"
    with pytest.raises(OSError, match=r"a process that loads data died: .*NUM_WORKERS"):
        next(batches)
