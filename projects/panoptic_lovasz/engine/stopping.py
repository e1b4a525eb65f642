"""End a training early, in all processes at once: on SIGTERM, or for a loss that is NaN."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import DatasetError, LabelError, NonFiniteLossError
from ..files import write_atomically
from ..modeling.losses import as_named

__all__ = ["LossWatch", "StopTogether", "interrupted_marker"]

logger = logging.getLogger(__name__)


def interrupted_marker(output_dir: str | os.PathLike) -> Path:
    """The file that tells the next start in this folder to resume."""
    return Path(output_dir) / "interrupted"


class LossWatch:
    """Remembers an iteration's batches and losses, to report them when one is NaN or infinite.

    Detectron2 looks at the losses when it logs them, in the main process; this adds no look of its
    own, and so no synchronization with a GPU.
    """

    def __init__(self, model: nn.Module, dump_dir: Path | None = None):
        """
        Args:
            model: the network that is trained.
            dump_dir: folder to write the batch into; None writes nothing.
        """
        self.failed = False
        self._dump_dir = dump_dir
        self._batches: list[list[dict[str, Any]]] = []
        self._losses: list[dict[str, Tensor]] = []
        model.register_forward_pre_hook(self._remember_batch)
        model.register_forward_hook(self._remember_losses)

    def _remember_batch(self, model: nn.Module, inputs: tuple) -> None:
        if model.training:
            self._batches.append(inputs[0])

    def _remember_losses(self, model: nn.Module, inputs: tuple, losses: Any) -> None:
        if model.training:
            named = as_named(losses, "total_loss")  # the name that Detectron2 gives a single one
            self._losses.append({name: loss.detach() for name, loss in named.items()})

    @contextlib.contextmanager
    def step(self, iteration: int) -> Iterator[None]:
        """Surround an iteration; a bad loss is noted as ``failed``, for all processes to stop.

        Raises:
            NonFiniteLossError: if there are no losses yet, because the network itself gave up.
            DatasetError: a semantic label that is not a class; names the images.
        """
        self._batches.clear()
        self._losses.clear()
        try:
            yield
        except LabelError as error:  # found in the backward pass, where only the batch is known
            files = _file_names(self._batches[-1])
            raise DatasetError(f"{error} (images of this batch: {files})") from error
        except FloatingPointError as error:
            # the other processes wait for gradients and cannot be asked
            if len(self._losses) < len(self._batches):
                raise NonFiniteLossError(f"{self.describe(iteration)} {error}") from error
            self.failed = True

    def describe(self, iteration: int) -> str:
        """What is wrong in this process, empty if nothing is; writes the batch if it shall."""
        losses_of_all = [*self._losses, None]  # None: the network gave up on the last batch
        for batch, losses in zip(self._batches, losses_of_all, strict=False):
            if terms := _not_finite(losses):
                return self._describe_batch(iteration, batch, losses, terms)
        return ""

    def _describe_batch(
        self, iteration: int, batch: list[dict[str, Any]], losses: Any, terms: list[str]
    ) -> str:
        files = _file_names(batch)
        rank = comm.get_rank()
        text = f"iteration {iteration}, rank {rank}: {', '.join(terms)}; images {files}."
        if self._dump_dir is None:
            return text
        self._dump_dir.mkdir(parents=True, exist_ok=True)
        file = self._dump_dir / f"iteration_{iteration:07d}_rank_{rank}.pth"
        content = {"iteration": iteration, "batch": batch, "losses": losses}
        write_atomically(file, lambda f: torch.save(content, f))
        return f"{text} The batch is in {file}."


def _file_names(batch: list[dict[str, Any]]) -> str:
    return ", ".join(str(item.get("file_name", "?")) for item in batch)


def _not_finite(losses: dict[str, Tensor] | None) -> list[str]:
    if losses is None:
        return ["the network's output is NaN or infinite"]
    values = {name: loss.item() for name, loss in losses.items()}
    return [f"{name} is {v}" for name, v in values.items() if not math.isfinite(v)]


class StopTogether(HookBase):
    """After every iteration the processes ask each other once whether to stop.

    On SIGTERM, with which clusters announce pre-emption, the iteration is finished and saved, a
    marker file makes the next training in the same OUTPUT_DIR resume without being told, and the
    exit code is 0. For a loss that is not finite nothing is saved; the error names the iteration,
    the loss and the images.

    Attributes:
        stopping (bool): whether the training ends just now, before its last iteration is over.
    """

    def __init__(self, checkpointer: DetectionCheckpointer, losses: LossWatch):
        """Save by this checkpointer, and stop when the losses have failed."""
        self._checkpointer = checkpointer
        self._losses = losses
        self.stopping = False
        self._received = False
        self._previous: Any = None

    def before_train(self) -> None:
        """Listen for the signal, as Python allows it in the main thread alone."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive) or signal.SIG_DFL

    def after_train(self) -> None:
        """Give the signal back."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def after_step(self) -> None:
        """Stop if any process has received the signal, or has seen a loss that is not finite.

        Raises:
            NonFiniteLossError: in every process.
        """
        answers = [(self._received, self._losses.failed)]
        if comm.get_world_size() > 1:
            answers = comm.all_gather(answers[0])
        received, failed = (any(flags) for flags in zip(*answers, strict=True))
        if failed:
            self._report()
        if received:
            self._save_and_exit()

    def _report(self) -> None:
        self.stopping = True
        texts = comm.all_gather(self._losses.describe(self.trainer.iter))
        raise NonFiniteLossError(
            f"{' '.join(filter(None, texts))} Lower SOLVER.BASE_LR, warm up longer or clip "
            "gradients (SOLVER.CLIP_GRADIENTS); the last checkpoint is from before."
        )

    def _save_and_exit(self) -> None:
        iteration = self.trainer.iter
        self.stopping = True
        self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        if comm.is_main_process():
            interrupted_marker(self._checkpointer.save_dir).touch()
        comm.synchronize()
        logger.info(f"Stopped by SIGTERM after iteration {iteration}, which is saved.")
        sys.exit(0)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = True
