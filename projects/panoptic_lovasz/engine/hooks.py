"""Hooks that make OUTPUT_DIR a folder to look at; each is switched by a key below ``OUTPUT``."""

from __future__ import annotations

import datetime
import logging
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from fvcore.common.checkpoint import Checkpointer

from ..checkpoint import save_classes
from ..data import get_panoptic_classes
from ..data.images import read_image
from ..evaluation.pictures import read_pictures
from ..reporting.records import add_result, read_results, remove_results, write_run
from ..reporting.report import draw_plots, write_report_page
from ..reporting.statistics import write_data_statistics
from ..visualization.guard import tolerate_errors
from .writers import WriterWithReaders, peak_memory_mib

__all__ = [
    "BestCheckpoint",
    "EvaluationHook",
    "EvaluationPicturesHook",
    "ReportHook",
    "ResultsTable",
    "best_metric",
    "with_output_hooks",
]

logger = logging.getLogger(__name__)


def with_output_hooks(
    cfg: CfgNode,
    hooks: Sequence[HookBase | None],
    checkpointer: Checkpointer,
    early_stopping: HookBase | None,
) -> list[HookBase | None]:
    """Add this project's hooks to those of ``DefaultTrainer``, in the main process.

    Args:
        cfg: the config; its ``OUTPUT`` says which.
        hooks: as ``DefaultTrainer.build_hooks`` returns them, the last writes events.
        checkpointer: saves the best model.
        early_stopping: ends the training, in every process, when all others are done.

    Returns:
        The hooks, of which the last writes events, as ``DefaultTrainer``'s does, so that what is
        inserted before it is written.
    """
    if not comm.is_main_process():
        return [*hooks, early_stopping]
    *before, writer = hooks
    folder, period = Path(cfg.OUTPUT_DIR), cfg.TEST.EVAL_PERIOD
    added: list[HookBase] = [
        d2_hooks.CallbackHook(before_train=lambda trainer: _begin(cfg, folder, trainer.start_iter))
    ]
    if cfg.DATASETS.TEST:
        added.append(ResultsTable(period, folder))
        if metric := best_metric(cfg):
            added.append(BestCheckpoint(period, folder, checkpointer, metric))
        if cfg.OUTPUT.NUM_PICTURES > 0:
            added.append(EvaluationPicturesHook(period, folder))
    readers = [
        PlotsHook(period, folder) if cfg.OUTPUT.PLOTS else None,
        ReportHook(cfg) if cfg.OUTPUT.REPORT else None,
        early_stopping,
    ]
    return [*before, *added, WriterWithReaders(writer, [hook for hook in readers if hook])]


def _begin(cfg: CfgNode, folder: Path, start_iter: int) -> None:
    save_classes(folder, get_panoptic_classes(cfg.DATASETS.TRAIN))
    if start_iter == 0:
        remove_results(folder)  # of an earlier run


def best_metric(cfg: CfgNode) -> str:
    """The metric by which the best model is kept, of several test sets the first's; "" for none."""
    early = cfg.TEST.EARLY_STOPPING
    metric = (early.METRIC if early.ENABLED else "") or cfg.OUTPUT.BEST_METRIC
    prefix = f"{cfg.DATASETS.TEST[0]}/" if len(cfg.DATASETS.TEST) > 1 else ""
    return metric and prefix + metric


class EvaluationHook(HookBase):
    """Base class: calls :meth:`after_evaluation` after every run of Detectron2's ``EvalHook``."""

    def __init__(self, eval_period: int, folder: Path):
        """
        Args:
            eval_period: of the ``EvalHook``, which has to stand before this one.
            folder: OUTPUT_DIR.
        """
        self._period = eval_period
        self._folder = folder

    def after_step(self) -> None:
        """Call if there was a periodic evaluation."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self.after_evaluation(done)

    def after_train(self) -> None:
        """Call if training came to its end; it is evaluated then."""
        if self.trainer.iter >= self.trainer.max_iter:
            self.after_evaluation(self.trainer.max_iter)

    def after_evaluation(self, iterations: int) -> None:
        """Do something after an evaluation.

        Args:
            iterations: the number of iterations done.
        """
        raise NotImplementedError


class ResultsTable(EvaluationHook):
    """Writes ``results.csv``, one row per evaluation."""

    def after_evaluation(self, iterations: int) -> None:
        """Add a row with the metrics that this evaluation put into the storage."""
        storage = self.trainer.storage
        hints = storage.smoothing_hints()
        metrics = {
            name: value
            for name, (value, iteration) in storage.latest().items()
            if iteration == storage.iter and not hints[name] and "/" in name
        }
        add_result(self._folder, iterations, metrics)


class BestCheckpoint(EvaluationHook):
    """Keeps the model with the highest value of a metric as ``model_best.pth``.

    Unlike Detectron2's ``BestCheckpointer`` it remembers the best value when a run is resumed (from
    ``results.csv``), and leaves ``last_checkpoint``, from which a run is resumed, at the last one.
    """

    _NAME = "model_best"

    def __init__(self, eval_period: int, folder: Path, checkpointer: Checkpointer, metric: str):
        """
        Args:
            eval_period: of the ``EvalHook``.
            folder: OUTPUT_DIR.
            checkpointer: saves the model, with what it needs to be resumed.
            metric: name of a metric, the higher the better: "panoptic_seg/PQ".
        """
        super().__init__(eval_period, folder)
        self._checkpointer = checkpointer
        self._metric = metric
        self._best = -math.inf

    def before_train(self) -> None:
        """Recall the best value of the run that is resumed."""
        start = self.trainer.start_iter
        if start > 0 and (self._folder / f"{self._NAME}.pth").is_file():
            rows = [r for r in read_results(self._folder) if r["iteration"] <= start]
            values = [r.get(self._metric, math.nan) for r in rows]
            self._best = max((v for v in values if not math.isnan(v)), default=-math.inf)

    def after_evaluation(self, iterations: int) -> None:
        """Save if it is better than all before."""
        value, _ = self.trainer.storage.latest().get(self._metric, (math.nan, 0))
        if not value > self._best:
            return
        self._best = value
        last = self._checkpointer.get_checkpoint_file()  # "" if there is none
        self._checkpointer.save(self._NAME, iteration=iterations - 1)
        if last:
            self._checkpointer.tag_last_checkpoint(os.path.basename(last))
        logger.info(f"The best {self._metric} so far, {value:.2f}: saved as {self._NAME}.pth")


class EvaluationPicturesHook(EvaluationHook):
    """Keeps the fixed set of pictures of every evaluation, in ``pictures/`` and in TensorBoard."""

    def after_evaluation(self, iterations: int) -> None:
        """Copy the pictures of this evaluation."""
        with tolerate_errors("pictures/"):
            for index in sorted((self._folder / "inference").glob("*/pictures/pictures.json")):
                dataset = index.parent.parent.name
                target = self._folder / "pictures" / f"{iterations:07d}" / dataset
                target.mkdir(parents=True, exist_ok=True)
                for picture in read_pictures(index.parent):
                    if picture.kind != "fixed":
                        continue
                    shutil.copyfile(picture.file, target / picture.file.name)
                    pixels = np.ascontiguousarray(read_image(picture.file).transpose(2, 0, 1))
                    self.trainer.storage.put_image(f"{dataset}/{picture.file.stem}", pixels)


class PlotsHook(EvaluationHook):
    """Draws ``plots/*.png`` after every evaluation."""

    def after_evaluation(self, iterations: int) -> None:
        """Draw them anew."""
        with tolerate_errors("plots/"):
            draw_plots(self._folder)


class ReportHook(HookBase):
    """Writes ``data_statistics.csv`` at the start, ``run.json`` and ``report.html`` at the end."""

    def __init__(self, cfg: CfgNode):
        """Take the config of the training."""
        self._cfg = cfg
        self._folder = Path(cfg.OUTPUT_DIR)

    def before_train(self) -> None:
        """Describe the data and take the time."""
        self._start = time.perf_counter()
        with tolerate_errors("data_statistics.csv"):
            names = dict.fromkeys((*self._cfg.DATASETS.TRAIN, *self._cfg.DATASETS.TEST))
            file = self._folder / "data_statistics.csv"
            write_data_statistics(file, {name: DatasetCatalog.get(name) for name in names})

    def after_train(self) -> None:
        """Write the report if training came to its end."""
        if self.trainer.iter < self.trainer.max_iter and self.trainer.early_end is None:
            return
        with tolerate_errors("report.html"):
            write_run(self._folder, self._record())
            page = write_report_page(self._folder)
            logger.info(f"Report: {page}")

    def _record(self) -> dict:
        memory, kind = peak_memory_mib()
        storage = self.trainer.storage
        timed = "time" in storage.histories()
        iterations, reason = self.trainer.early_end or (self.trainer.max_iter, "")
        return {
            "title": ", ".join(self._cfg.DATASETS.TRAIN),
            "command": _command(),
            "finished": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            "iterations": iterations,
            "ended_early": reason,
            "first_iteration": self.trainer.start_iter,
            "seconds": time.perf_counter() - self._start,
            "seconds_per_iteration": storage.history("time").median(1000) if timed else None,
            "peak_memory_mib": memory,
            "memory": kind,
            "processes": comm.get_world_size(),
            "environment": collect_env_info(),
        }


def _command() -> str:
    """How this process was started, as one would type it."""
    python = "python"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        python = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', 1)}"
    datasets = os.environ.get("DETECTRON2_DATASETS")
    prefix = f"DETECTRON2_DATASETS={shlex.quote(datasets)} " if datasets else ""
    module = getattr(sys.modules["__main__"], "__spec__", None)  # None if it was started by path
    program = ["-m", module.name] if module else sys.argv[:1]
    return f"{prefix}{python} {shlex.join([*program, *sys.argv[1:]])}"
