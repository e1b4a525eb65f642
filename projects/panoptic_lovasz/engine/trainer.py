"""Detectron2's ``DefaultTrainer`` with this project's data and evaluation."""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.evaluation import DatasetEvaluators, verify_results
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from ..checkpoint import SafeCheckpointer
from ..checkpoint.averaged import AVERAGED_KEY
from ..compat import ddp_on_any_device, reset_data_loader
from ..config.checking import READ_BY, check_config, check_device, check_proposals, check_training
from ..data import PanopticFPNDatasetMapper, build_panoptic_train_loader
from ..data.build import clear_loader_errors, init_worker
from ..data.evaluation_sets import check_evaluation_sets
from ..errors import ConfigError
from ..evaluation.build import build_evaluator, check_evaluators
from ..files import remove_unfinished
from ..modeling import clear_build_errors
from .accumulating import run_accumulated_step, unwrap
from .averaging import AverageWeights
from .early_stopping import EarlyEnd, EndOfTraining, build_early_stopping
from .hooks import with_output_hooks
from .resuming import SeedEachIteration, check_resumable
from .stopping import LossWatch, StopTogether, interrupted_marker
from .writers import ProgressPrinter

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """``DefaultTrainer`` that reads panoptic ground truth and evaluates by the metadata's type.

    Attributes:
        early_end: where and why the training ended early, None if it did not.
    """

    early_end: EarlyEnd | None = None

    def __init__(self, cfg: CfgNode):
        """
        Raises:
            ConfigError: see :meth:`check`.
            ConfigError, DatasetError: see :func:`.check_evaluation_sets`.
        """
        self.check(cfg)
        check_evaluation_sets(cfg)
        with ddp_on_any_device(cfg.MODEL.DEVICE):
            super().__init__(cfg)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Check that this trainer can train by a config, before anything is read or written.

        What a method of a subclass's own reads instead of one of this class, such as
        ``build_optimizer``, it may read as it likes.

        Raises:
            ConfigError: if ``cfg`` has a value that cannot be used, or has no effect, or asks for
                mixed precision without CUDA, or for Panoptic-DeepLab; if a data set of
                DATASETS.TEST is of no type that there is an evaluator for.
        """
        check_config(cfg)
        if cfg.SOLVER.AMP.ENABLED and not torch.cuda.is_available():
            raise ConfigError(
                "SOLVER.AMP.ENABLED: found True, expected False: mixed precision needs CUDA"
            )
        if cfg.MODEL.META_ARCHITECTURE == "PanopticDeepLab":
            raise ConfigError(
                "MODEL.META_ARCHITECTURE is 'PanopticDeepLab', whose ground truth this trainer "
                "does not read; train it with Detectron2's projects/Panoptic-DeepLab/train_net.py, "
                "as docs/other_models.md says"
            )
        check_training(cfg, [name for name in READ_BY if cls._is_own(name)])
        if not cls._is_own("build_evaluator") and not cls._is_own("test"):
            check_evaluators(cfg)

    @classmethod
    def _is_own(cls, method: str) -> bool:
        """Whether a subclass has a method of its own in place of this class's."""
        own, theirs = (inspect.getattr_static(kind, method) for kind in (cls, Trainer))
        return own is not theirs

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The network, as ``DefaultTrainer`` builds it.

        Raises:
            ConfigError: if ``cfg`` describes none, or MODEL.DEVICE is not there.
        """
        check_device(cfg)
        with clear_build_errors(cfg):
            return super().build_model(cfg)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Detectron2's schedules, and DeepLab's ``WarmupPolyLR``."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(
        cls, cfg: CfgNode, start_iter: int = 0
    ) -> Iterable[list[dict[str, Any]]]:
        """A loader of batches mapped by :class:`PanopticFPNDatasetMapper`.

        Args:
            cfg: the config.
            start_iter: number of batches that a resumed run has seen. One of your own that does not
                take it begins anew with every resume, as Detectron2's does.
        """
        return build_panoptic_train_loader(cfg, start_iter=start_iter)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """A loader of single images, without ground truth."""
        check_proposals(cfg)  # Detectron2 unpickles them here
        mapper = PanopticFPNDatasetMapper(cfg, False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        loader.worker_init_fn = init_worker
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """The evaluators that the data set's metadata asks for."""
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def build_checkpointer(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        *,
        averaged: bool = False,
        complete: bool = False,
        **checkpointables: Any,
    ) -> SafeCheckpointer:
        """A checkpointer for ``cfg.OUTPUT_DIR`` that loads and saves safely.

        Args:
            cfg, model: config and network.
            averaged: load averaged weights, to evaluate them.
            complete: refuse weights that leave a part of the network as it was.
            checkpointables: what is saved and resumed besides.
        """
        return SafeCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            trust_weights=cfg.MODEL.TRUST_WEIGHTS,
            averaged=averaged,
            complete=complete,
            **checkpointables,
        )

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, and those for resuming, and for a folder to look at."""
        averaging, ema = None, self.cfg.SOLVER.EMA
        checkpointables: dict[str, Any] = {"trainer": weakref.proxy(self)}
        self._evaluated = self.model
        if ema.ENABLED:
            averaging = AverageWeights(unwrap(self.model), ema.DECAY)
            checkpointables[AVERAGED_KEY] = averaging.averaged
            if self.cfg.TEST.EMA:
                self._evaluated = averaging.averaged.module
        # DefaultTrainer has built a checkpointer of its own; its hooks shall use this one.
        self.checkpointer = self.build_checkpointer(self.cfg, self.model, **checkpointables)
        timer, scheduler, *others = super().build_hooks()
        evaluation = d2_hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
        others = [evaluation if isinstance(h, d2_hooks.EvalHook) else h for h in others]
        seed = SeedEachIteration(self.cfg.SEED) if self.cfg.SEED >= 0 else None
        dump_dir = Path(self.cfg.OUTPUT_DIR, "non_finite")
        self._losses = LossWatch(self.model, dump_dir if self.cfg.OUTPUT.DUMP_NON_FINITE else None)
        # After the scheduler's and the average's step, which belong to the iteration that is saved.
        self._stop = StopTogether(self.checkpointer, self._losses)
        hooks = [timer, seed, scheduler, averaging, self._stop, *others]
        early_stopping = build_early_stopping(self.cfg, self.checkpointer)
        return with_output_hooks(self.cfg, hooks, self.checkpointer, early_stopping)

    def _evaluate(self) -> dict:
        if self._stop.stopping:  # in the last iteration: the next start, if any, will evaluate
            return {}
        self._last_eval_results = self.test(self.cfg, self._evaluated)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers, with one line of progress instead of its own."""
        writers = super().build_writers()
        if not self.cfg.OUTPUT.PROGRESS_LINE:
            return writers
        line = ProgressPrinter(self.max_iter)
        return [line if isinstance(w, CommonMetricPrinter) else w for w in writers]

    def train(self) -> Any:
        """Train as ``DefaultTrainer`` does; what goes wrong with the data is one clear error."""
        try:
            with clear_loader_errors():
                return super().train()
        except EndOfTraining:  # then comes what DefaultTrainer does after its loop
            results = getattr(self, "_last_eval_results", None)  # None: it had ended before
            if not (self.cfg.TEST.EXPECTED_RESULTS and results and comm.is_main_process()):
                return None
            verify_results(self.cfg, results)
            return results

    def run_step(self) -> None:
        """One iteration, whose losses are watched."""
        num_batches = self.cfg.SOLVER.ACCUMULATE_STEPS
        with self._losses.step(self.iter):
            if num_batches == 1:
                super().run_step()
            else:
                self._trainer.iter = self.iter
                run_accumulated_step(self._trainer, num_batches)

    def resume_or_load(self, resume: bool = True) -> None:
        """Load as ``DefaultTrainer`` does; a resumed run sees the data that is left.

        A run that SIGTERM stopped resumes in any case. One that was killed after its last iteration
        and before the end is brought to its end: evaluated, and saved as ``model_final.pth``.
        """
        marker = interrupted_marker(self.cfg.OUTPUT_DIR)
        if marker.is_file() and not resume:
            logger.info(f"Resuming the run that was stopped in {self.cfg.OUTPUT_DIR}.")
            resume = True
        if resume:
            check_resumable(self.cfg)
        super().resume_or_load(resume)
        if self.start_iter > self.max_iter:
            raise ConfigError(
                f"SOLVER.MAX_ITER is {self.max_iter}, but the checkpoint in {self.cfg.OUTPUT_DIR} "
                f"has {self.start_iter} iterations: give at least as many, or another OUTPUT_DIR"
            )
        comm.synchronize()
        if comm.is_main_process():
            marker.unlink(missing_ok=True)
            remove_unfinished(self.cfg.OUTPUT_DIR)
        if self.start_iter == self.max_iter:  # killed after its last checkpoint, before this one
            self.checkpointer.save("model_final", iteration=self.max_iter - 1)
        if self.start_iter > 0:
            self._skip_seen_batches()

    def _skip_seen_batches(self) -> None:
        if "start_iter" not in inspect.signature(self.build_train_loader).parameters:
            logger.warning("build_train_loader takes no start_iter: the data begin anew")
            return
        batches_done = self.start_iter * self.cfg.SOLVER.ACCUMULATE_STEPS
        loader = self.build_train_loader(self.cfg, start_iter=batches_done)
        reset_data_loader(self._trainer, loader)

    def state_dict(self) -> dict:
        """The trainer's state with the optimizer's, which Detectron2 0.6 leaves out."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
