"""Training samplers: deterministic by seed and shared out over the ranks.

A sampler is an infinite stream of image indices. Position p of the stream belongs to rank
p mod W of W ranks, so iteration k takes positions kB .. (k+1)B - 1 for a total batch of B. That is
what makes a run resumable: its loader starts at position kB and sees what it would have seen.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Sampler

from ..errors import ConfigError, DatasetError
from .classes import PanopticClasses
from .register import get_panoptic_classes

__all__ = [
    "EquiBatchSampler",
    "build_train_sampler",
    "images_of_classes",
    "panoptic_repeat_factors",
]

logger = logging.getLogger(__name__)

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "EquiBatchSampler")


class EquiBatchSampler(Sampler):
    """Cycle through the classes, and for each take an image that shows it.

    The "equibatch" sampling of Berman et al., "The Lovász-Softmax loss", CVPR 2018: images are
    drawn so that within any stretch of as many images as there are classes every class has its
    turn, and so a batch holds rare classes too. The classes come in a new random order in every
    cycle; each class goes through its own images in random order before one of them returns.
    """

    def __init__(self, images_of_class: Sequence[Sequence[int]], *, seed: int | None = None):
        """Sample from the given classes.

        Args:
            images_of_class: for each class the indices of the images that show it; a class without
                images has no turn.
            seed: the same on all ranks; by default a random one that they agree on.

        Raises:
            ValueError: if no class has an image.
        """
        self.images_of_class = [
            torch.as_tensor(images) for images in images_of_class if len(images)
        ]
        if not self.images_of_class:
            raise ValueError("EquiBatchSampler needs a class with at least one image")
        self.seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        queues: list[list[int]] = [[] for _ in self.images_of_class]
        while True:
            for c in torch.randperm(len(queues), generator=generator).tolist():
                if not queues[c]:
                    images = self.images_of_class[c]
                    queues[c] = images[torch.randperm(len(images), generator=generator)].tolist()
                yield queues[c].pop()


def images_of_classes(
    dataset_dicts: Sequence[dict[str, Any]], classes: PanopticClasses
) -> dict[tuple[bool, int], list[int]]:
    """Map (isthing, class id) to the indices of the images that show it other than as a crowd."""
    images = defaultdict(list)
    for index, dataset_dict in enumerate(dataset_dicts):
        for isthing_class in _classes_in(dataset_dict, classes):
            images[isthing_class].append(index)
    return dict(sorted(images.items()))


def panoptic_repeat_factors(
    dataset_dicts: Sequence[dict[str, Any]], classes: PanopticClasses, threshold: float
) -> torch.Tensor:
    """Repeat factor of each image by the rarest class that it shows, stuff or thing.

    Gupta et al., "LVIS", CVPR 2019, appendix B.2: a class that a fraction f of the images shows has
    the factor max(1, sqrt(threshold / f)), an image the largest factor of its classes.

    Returns:
        float32 (number of images,).
    """
    annotated = [
        {"annotations": [{"category_id": c} for c in _classes_in(d, classes)]}
        for d in dataset_dicts
    ]
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(annotated, threshold)


def build_train_sampler(cfg: CfgNode, dataset_dicts: Sequence[dict[str, Any]]) -> Sampler:
    """Build the sampler that DATALOADER.SAMPLER_TRAIN names.

    The stream depends on SEED alone, and is the same in every run only if SEED is not negative.

    Args:
        cfg: the config; reads SEED, DATASETS.TRAIN and DATALOADER.
        dataset_dicts: panoptic dataset dicts.

    Returns:
        An infinite sampler of this rank's share of the indices.

    Raises:
        ConfigError: if the name is unknown.
        DatasetError: if there is no class to cycle through.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    seed = cfg.SEED if cfg.SEED >= 0 else None
    size = len(dataset_dicts)
    if name == "TrainingSampler":
        return TrainingSampler(size, seed=seed)
    if name == "RepeatFactorTrainingSampler":
        classes = get_panoptic_classes(cfg.DATASETS.TRAIN)
        factors = panoptic_repeat_factors(dataset_dicts, classes, cfg.DATALOADER.REPEAT_THRESHOLD)
        return RepeatFactorTrainingSampler(factors, seed=seed)
    if name == "EquiBatchSampler":
        classes = get_panoptic_classes(cfg.DATASETS.TRAIN)
        images = images_of_classes(dataset_dicts, classes)
        if not images:
            raise DatasetError(f"no image of {', '.join(cfg.DATASETS.TRAIN)} shows a class")
        rarest = min(images, key=lambda c: len(images[c]))
        logger.info(
            f"EquiBatchSampler cycles through {len(images)} classes; the rarest, "
            f"{classes.class_name(*rarest)}, is in {len(images[rarest])} of {size} images."
        )
        return EquiBatchSampler(list(images.values()), seed=seed)
    raise ConfigError(f"DATALOADER.SAMPLER_TRAIN is '{name}', expected one of {SAMPLERS}")


def _classes_in(dataset_dict: dict[str, Any], classes: PanopticClasses) -> set[tuple[bool, int]]:
    return {
        classes.segment_class(segment)
        for segment in dataset_dict["segments_info"]
        if not segment.get("iscrowd", 0)
    }
