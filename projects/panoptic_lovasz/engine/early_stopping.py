"""End a training whose evaluations have ceased to get better."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..errors import ConfigError
from ..flat import flatten
from ..reporting.records import read_results
from .hooks import EvaluationHook, best_metric

__all__ = ["EarlyEnd", "EarlyStopping", "EndOfTraining", "build_early_stopping", "count_stale"]

logger = logging.getLogger(__name__)


class EndOfTraining(BaseException):
    """Leaves Detectron2's loop, which ends by itself at its last iteration only; not an error."""


class EarlyEnd(NamedTuple):
    """Where and why a training ended early."""

    iterations: int  # done
    reason: str


def build_early_stopping(cfg: CfgNode, checkpointer: DetectionCheckpointer) -> EarlyStopping | None:
    """Make the hook that ``cfg.TEST.EARLY_STOPPING`` describes, None if it is not enabled.

    Raises:
        ConfigError: if a value is out of its range, or nothing is evaluated in the training.
    """
    early = cfg.TEST.EARLY_STOPPING
    if not early.ENABLED:
        return None
    for key, valid, expected in (
        ("TEST.EARLY_STOPPING.PATIENCE", early.PATIENCE >= 1, "at least 1 evaluation"),
        ("TEST.EARLY_STOPPING.MIN_GAIN", early.MIN_GAIN >= 0, "a number not below 0"),
        (
            "TEST.EARLY_STOPPING.METRIC",
            best_metric(cfg),
            "a metric, as OUTPUT.BEST_METRIC is empty",
        ),
        ("TEST.EVAL_PERIOD", cfg.TEST.EVAL_PERIOD > 0, "a period, for TEST.EARLY_STOPPING"),
        ("DATASETS.TEST", cfg.DATASETS.TEST, "a data set, for TEST.EARLY_STOPPING"),
    ):
        if not valid:
            raise ConfigError(f"{key} is {flatten(cfg)[key]!r}, expected {expected}")
    return EarlyStopping(
        cfg.TEST.EVAL_PERIOD,
        Path(cfg.OUTPUT_DIR),
        checkpointer,
        best_metric(cfg),
        patience=early.PATIENCE,
        min_gain=early.MIN_GAIN,
    )


class EarlyStopping(EvaluationHook):
    """Ends the training, in all processes, once a metric has ceased to rise.

    It goes last, when evaluation, checkpoints and plots of the iteration are done. The weights are
    saved as ``model_final.pth``; ``trainer.early_end`` says why. A resumed run counts the
    evaluations before it, which ``results.csv`` has.
    """

    def __init__(
        self,
        eval_period: int,
        folder: Path,
        checkpointer: DetectionCheckpointer,
        metric: str,
        *,
        patience: int,
        min_gain: float = 0.0,
    ):
        """
        Args:
            eval_period: of the ``EvalHook``.
            folder: OUTPUT_DIR.
            checkpointer: saves the last model.
            metric: name of a metric, the higher the better: "panoptic_seg/PQ".
            patience: evaluations in a row without a gain that end the training, at least 1.
            min_gain: by how much a value must exceed the last gain's to be one, in the metric's
                unit.
        """
        super().__init__(eval_period, folder)
        self._checkpointer = checkpointer
        self._metric = metric
        self._patience = patience
        self._min_gain = min_gain
        self._values: dict[int, float] = {}  # by the number of iterations done

    def before_train(self) -> None:
        """Recall the evaluations of the run that is resumed; it may have come to its end."""
        start = self.trainer.start_iter
        if start > 0:
            rows = [row for row in read_results(self._folder) if row["iteration"] <= start]
            self._values = {int(r["iteration"]): r.get(self._metric, math.nan) for r in rows}
            self._end_together(start, self._verdict())

    def after_train(self) -> None:
        """Nothing: the training has ended anyway."""

    def after_evaluation(self, iterations: int) -> None:
        """End the training if this evaluation has used up the patience.

        Raises:
            ConfigError: in all processes, if there is no such metric.
            EndOfTraining: in all processes.
        """
        metrics = self.trainer.storage.latest()  # evaluation puts them there in the main process
        if self._metric in metrics:
            self._values[iterations] = metrics[self._metric][0]
            self._end_together(iterations, self._verdict())
        else:
            known = ", ".join(sorted(k for k in metrics if "/" in k and "-" not in k))
            problem = f"TEST.EARLY_STOPPING.METRIC: no evaluation gives {self._metric}; there is"
            self._end_together(iterations, ConfigError(f"{problem} {known}"))

    def _verdict(self) -> str:
        """Why the training shall end, or nothing."""
        stale = count_stale(self._values.values(), self._min_gain)
        if stale < self._patience:
            return ""
        at, best = max(self._values.items(), key=lambda item: (_rank(item[1]), -item[0]))
        return (
            f"{self._metric} has not risen by more than {self._min_gain:g} in {stale} evaluations; "
            f"its best is {best:.4g}, after {at} iterations, kept as model_best.pth"
        )

    def _end_together(self, iterations: int, verdict: str | ConfigError) -> None:
        verdict = comm.all_gather(verdict)[0]  # the main process knows
        if isinstance(verdict, ConfigError):
            raise verdict
        if not verdict:
            return
        logger.info(f"The training ends early, after {iterations} iterations: {verdict}.")
        self.trainer.early_end = EarlyEnd(iterations, verdict)
        self._checkpointer.save("model_final", iteration=iterations - 1)
        raise EndOfTraining


def count_stale(values: Iterable[float], min_gain: float) -> int:
    """The number of values since the last that exceeded the gain before it by more than min_gain.

    NaN is not a gain; the first number is one.
    """
    last_gain, stale = -math.inf, 0
    for value in values:
        if value > last_gain + min_gain:
            last_gain, stale = value, 0
        else:
            stale += 1
    return stale


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value
