import itertools
from collections import Counter

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.utils import comm
from hypothesis import given
from hypothesis import strategies as st

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.data import (
    EquiBatchSampler,
    build_train_sampler,
    get_panoptic_dataset_dicts,
    load_coco_panoptic_json,
    register_coco_panoptic,
)
from panoptic_lovasz.data.samplers import (
    images_of_classes,
    panoptic_repeat_factors,
)
from panoptic_lovasz.errors import ConfigError, DatasetError

SAMPLERS = ["TrainingSampler", "RepeatFactorTrainingSampler", "EquiBatchSampler"]
# 100 images: class 0 is in all of them, class 1 in every tenth, class 2 in one.
IMAGES_OF_CLASS = [list(range(100)), list(range(0, 100, 10)), [42]]


def take(iterable, n):
    return list(itertools.islice(iterable, n))


@pytest.fixture
def cfg(shapes):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    paths = shapes / "annotations/train.json", shapes / "train", shapes / "panoptic_train"
    register_coco_panoptic("sampled", *paths)
    cfg.DATASETS.TRAIN = ("sampled",)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SEED = 3
    return cfg


@pytest.fixture
def as_rank(monkeypatch):
    def become(rank, world_size):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return become


def test_every_class_has_its_turn_in_every_cycle_of_equibatch():
    stream = take(EquiBatchSampler(IMAGES_OF_CLASS, seed=0), 3 * 50)
    for cycle in zip(*[iter(stream)] * 3, strict=True):
        assert 42 in cycle  # the only image of the rarest class
        left = list(cycle)
        left.remove(42)
        assert any(i % 10 == 0 for i in left)


def test_a_class_shows_all_its_images_before_one_of_them_returns():
    stream = take(EquiBatchSampler([list(range(7))], seed=1), 70)
    for epoch in range(10):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert stream[:7] != stream[7:14]


def test_equibatch_shows_a_rare_class_as_often_as_there_are_classes():
    count = Counter(take(EquiBatchSampler(IMAGES_OF_CLASS, seed=0), 3000))
    assert 1000 <= count[42] <= 1000 + 1000 / 100 + 1  # its own turns, and a few of class 0


def test_a_class_without_images_has_no_turn_and_one_with_images_is_needed():
    assert set(take(EquiBatchSampler([[], [5], []], seed=0), 10)) == {5}
    with pytest.raises(ValueError, match="at least one image"):
        EquiBatchSampler([[], []], seed=0)


@given(st.integers(0, 2**40))
def test_the_stream_depends_on_the_seed_alone(seed):
    first, second = (take(EquiBatchSampler(IMAGES_OF_CLASS, seed=seed), 100) for _ in range(2))
    assert first == second


def test_other_seeds_give_other_streams():
    first, second = (take(EquiBatchSampler(IMAGES_OF_CLASS, seed=s), 50) for s in (1, 2))
    assert first != second


@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_share_out_the_stream_of_one_process(cfg, as_rank, name):
    cfg.DATALOADER.SAMPLER_TRAIN = name
    dicts = get_panoptic_dataset_dicts(cfg.DATASETS.TRAIN)
    alone = take(build_train_sampler(cfg, dicts), 40)
    shares = []
    for rank in range(2):
        as_rank(rank, 2)
        shares.append(take(build_train_sampler(cfg, dicts), 20))
    assert list(itertools.chain(*zip(*shares, strict=True))) == alone


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_work_in_detectron2s_own_loader(cfg, name):
    cfg.DATALOADER.SAMPLER_TRAIN = name
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    dicts = get_panoptic_dataset_dicts(cfg.DATASETS.TRAIN)
    sampler = build_train_sampler(cfg, dicts)
    loader = build_detection_train_loader(
        cfg, dataset=dicts, sampler=sampler, mapper=DatasetMapper(cfg, False)
    )
    seen = [d["image_id"] for batch in take(loader, 3) for d in batch]
    assert seen == [dicts[i]["image_id"] for i in take(build_train_sampler(cfg, dicts), 12)]


def test_an_unknown_sampler_is_an_error_that_lists_the_known_ones(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "BestSampler"
    with pytest.raises(ConfigError, match=r"is 'BestSampler', expected one of .*EquiBatchSampler"):
        build_train_sampler(cfg, get_panoptic_dataset_dicts(cfg.DATASETS.TRAIN))


def test_equibatch_needs_an_image_that_shows_a_class(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "EquiBatchSampler"
    with pytest.raises(DatasetError, match="no image of sampled shows a class"):
        build_train_sampler(cfg, [{"segments_info": []}])


def test_images_are_listed_by_class_and_a_crowd_does_not_count(tiny_set, tiny_classes):
    dicts = load_coco_panoptic_json(*tiny_set.paths)
    sky, grass, dog, cat = (False, 1), (False, 2), (True, 0), (True, 1)
    assert images_of_classes(dicts, tiny_classes) == {sky: [0, 1], grass: [0], dog: [0], cat: [1]}
    dicts[1]["segments_info"][1]["iscrowd"] = 1
    assert cat not in images_of_classes(dicts, tiny_classes)


def test_repeat_factors_follow_the_rarest_class_be_it_stuff_or_thing(tiny_classes):
    sky = {"id": 1, "category_id": 1, "isthing": False}
    cat = {"id": 2, "category_id": 1, "isthing": True}  # the same number, another kind
    grass = {"id": 3, "category_id": 2, "isthing": False}
    dicts = [{"segments_info": [sky]} for _ in range(8)]
    dicts[0]["segments_info"] = [sky, cat]  # in 1 of 8
    dicts[1]["segments_info"] = [sky, grass]
    dicts[2]["segments_info"] = [sky, grass]  # in 2 of 8
    factors = panoptic_repeat_factors(dicts, tiny_classes, threshold=0.5)
    assert torch.allclose(factors, torch.tensor([2.0, 2**0.5, 2**0.5] + [1.0] * 5))
