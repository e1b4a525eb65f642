"""The writers of a training's events, among them one line of progress that a person can read."""

from __future__ import annotations

import datetime
import logging
import math
import resource
from collections.abc import Sequence

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from ..metrics import HEADLINES, TITLES, find

__all__ = ["ProgressPrinter", "WriterWithReaders", "peak_memory_mib"]

logger = logging.getLogger(__name__)

_WINDOW = 20  # iterations that losses are smoothed over, as in Detectron2

_SHORT = {
    "loss_sem_seg_ce": "ce",
    "loss_sem_seg_lovasz": "lovasz",
    "loss_rpn_cls": "rpn",
    "loss_rpn_loc": "rpn box",
    "loss_cls": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}


class ProgressPrinter(EventWriter):
    """Logs one line; takes the place of Detectron2's ``CommonMetricPrinter``.

    Like that it puts ``eta_seconds`` into the storage, smooths losses over 20 iterations and leaves
    out what is not known, for instance the last PQ before the first evaluation.
    """

    def __init__(self, max_iter: int):
        """
        Args:
            max_iter: iterations of the training.
        """
        self._max_iter = max_iter

    def write(self) -> None:
        """Log the line of this iteration."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # after the last step there is nothing to report
            return
        done = storage.iter + 1
        parts = [f"iter {done}/{self._max_iter}", *self._times(storage, done)]
        parts += [self._losses(storage), *self._evaluation(storage)]
        memory, kind = peak_memory_mib()
        parts.append(f"{memory / 1024:.1f} GiB of {kind}")
        logger.info("  ".join(part for part in parts if part))

    def _times(self, storage: EventStorage, done: int) -> list[str]:
        if "time" not in storage.histories():  # in the first iterations
            return []
        per_iteration = storage.history("time").median(1000)
        eta = per_iteration * (self._max_iter - done)
        storage.put_scalar("eta_seconds", eta, smoothing_hint=False)
        return [f"eta {datetime.timedelta(seconds=int(eta))}", f"{per_iteration:.3g} s/iter"]

    def _losses(self, storage: EventStorage) -> str:
        values = {
            name: history.median(_WINDOW)
            for name, history in storage.histories().items()
            if "loss" in name
        }
        total = values.pop("total_loss", sum(values.values()))
        terms = [f"{_SHORT.get(name, name)} {value:.3g}" for name, value in values.items()]
        return f"loss {total:.3g} ({', '.join(terms)})" if values else ""

    def _evaluation(self, storage: EventStorage) -> list[str]:
        latest = {name: value for name, (value, _) in storage.latest().items()}
        values = {title: find(latest, TITLES[title]) for title in HEADLINES}
        return [f"{title} {value:.1f}" for title, value in values.items() if not math.isnan(value)]


class WriterWithReaders(PeriodicWriter):
    """Detectron2's writer of events, and the hooks that read what it has written.

    They are one, so that the writer stays the last hook: ``hooks.insert(-1, hook)`` is the usual
    way to have what a hook of one's own puts into the storage written.
    """

    def __init__(self, writer: PeriodicWriter, readers: Sequence[HookBase]):
        """
        Args:
            writer: whose writers and period are taken.
            readers: called after it, in this order, before and after the training and each step.
        """
        super().__init__(writer._writers, writer._period)
        self._readers = readers

    def before_train(self) -> None:
        """Hand the trainer on."""
        super().before_train()
        for reader in self._readers:
            reader.trainer = self.trainer
            reader.before_train()

    def after_step(self) -> None:
        """Write, if it is time to, then read."""
        super().after_step()
        for reader in self._readers:
            reader.after_step()

    def after_train(self) -> None:
        """Write, then read."""
        super().after_train()
        for reader in self._readers:
            reader.after_train()


def peak_memory_mib() -> tuple[float, str]:
    """Most memory that this process has had so far: the GPU's where there is one, else RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20, "GPU memory"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, "RAM"  # Linux: KiB
