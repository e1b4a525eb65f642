"""The training loader: a resumable stream of mapped batches."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import ConfigError, DatasetError
from .mapper import PanopticFPNDatasetMapper
from .register import get_panoptic_dataset_dicts, require_instances
from .samplers import build_train_sampler

__all__ = ["build_panoptic_train_loader", "clear_loader_errors", "init_worker"]


def build_panoptic_train_loader(
    cfg: CfgNode,
    *,
    mapper: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    start_iter: int = 0,
) -> DataLoader:
    """Build an endless loader over DATASETS.TRAIN that continues after ``start_iter`` iterations.

    It differs from Detectron2's ``build_detection_train_loader`` in that images are grouped by
    aspect ratio before they are read, and in that the random numbers of an image's augmentations
    depend on SEED and its place in the stream alone. So with SEED >= 0 the batches after
    ``start_iter`` are exactly those of a run that was never stopped, for any number of workers.

    Args:
        cfg: reads DATASETS.TRAIN, DATALOADER, SOLVER.IMS_PER_BATCH, SEED and what the mapper reads.
        mapper: by default ``PanopticFPNDatasetMapper(cfg, True)``.
        start_iter: the number of iterations that are done.

    Returns:
        A loader of lists of SOLVER.IMS_PER_BATCH / (number of ranks) mapped dicts.

    Raises:
        ConfigError: if the batch size is not a multiple of the number of ranks.
        DatasetError: if a data set cannot be loaded, or no image has an instance.
    """
    batch_size, rest = divmod(cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size())
    if batch_size == 0 or rest:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, expected a multiple of the "
            f"number of processes, {comm.get_world_size()}"
        )
    dicts = get_panoptic_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    require_instances(cfg.DATASETS.TRAIN, dicts)
    mapper = PanopticFPNDatasetMapper(cfg, True) if mapper is None else mapper
    groups = [0] * len(dicts)
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:  # some of Detectron2's own dicts have no size
        groups = [int(d.get("width", 0) > d.get("height", 0)) for d in dicts]
    dataset = MapDataset(DatasetFromList(dicts, copy=False), mapper)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    return _Loader(
        _SeededDataset(dataset, seed),
        batch_sampler=_GroupedBatchSampler(
            build_train_sampler(cfg, dicts), batch_size, groups, start_iter
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=init_worker,
    )


class _Loader(DataLoader):
    """A loader that says in one message what went wrong in its worker processes."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch: a private class
        # started here and now, since it draws a random number
        return _with_clear_errors(super().__iter__())


def _with_clear_errors(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        with clear_loader_errors():
            yield from batches
    except (ConnectionError, EOFError) as error:  # it died while it sent a batch
        raise _died(error) from error


@contextlib.contextmanager
def clear_loader_errors() -> Iterator[None]:
    """Shorten what loading processes raise; a loop over batches is to run within this.

    PyTorch raises the death of a process by a signal, wherever the loop is at that moment.

    Raises:
        DatasetError: as in the process, without the text of its traceback.
        OSError: if a process died.
    """
    try:
        yield
    except DatasetError as error:
        _, traceback, message = str(error).rpartition("DatasetError: ")
        if not traceback:  # not from a worker, or shortened before
            raise
        raise DatasetError(message.strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _died(error) from error


def _died(error: Exception) -> OSError:
    return OSError(
        f"a process that loads data died: {error} If memory ran out, take fewer "
        "(DATALOADER.NUM_WORKERS); start again with --resume."
    )


def init_worker(worker_id: int) -> None:
    """Prepare a process that loads data: a ``worker_init_fn`` for PyTorch's ``DataLoader``."""
    worker_init_reset_seed(worker_id)
    cv2.setNumThreads(0)  # workers are the parallelism
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    """End at the main process's SIGTERM; clusters send theirs to all, and it needs its batch."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class _GroupedBatchSampler(Sampler):
    """Batches of (position in the stream of all ranks, index), of images of one group each."""

    def __init__(self, sampler: Iterable[int], batch_size: int, groups: Sequence[int], skip: int):
        self.sampler, self.batch_size = sampler, batch_size
        self.groups, self.skip = groups, skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        yield from itertools.islice(self._batches(), self.skip, None)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        buckets: tuple[list, list] = [], []
        positions = itertools.count(comm.get_rank(), comm.get_world_size())
        for position, index in zip(positions, self.sampler, strict=False):
            bucket = buckets[self.groups[index]]
            bucket.append((position, index))
            if len(bucket) == self.batch_size:
                yield bucket.copy()
                bucket.clear()


class _SeededDataset(Dataset):
    """Read item (position, index) with random numbers that depend on the position alone."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        position, index = item
        with _seeded(self.seed, position):
            return self.dataset[index]


@contextlib.contextmanager
def _seeded(*entropy: int) -> Iterator[None]:
    """Seed the random sources of the CPU, and give the process its own states back afterwards."""
    # Detectron2's augmentations draw from the global sources.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
