"""Trainers, hooks, networks and data sets of a user's own, in the way that Detectron2 has them."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import DatasetEvaluators
from detectron2.modeling import META_ARCH_REGISTRY

from panoptic_lovasz import PanopticLovaszFPN, Trainer
from panoptic_lovasz.data import build_panoptic_train_loader
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.modeling import SEM_SEG_LOSS_REGISTRY


class OwnBuilders(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        assert cfg.SOLVER.OPTIMIZER == "ADAMW"
        return torch.optim.AdamW(model.parameters(), lr=cfg.SOLVER.BASE_LR)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        assert cfg.SOLVER.LR_SCHEDULER_NAME == "OneCycle"
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=10)

    @classmethod
    def build_train_loader(cls, cfg, start_iter=0):
        assert cfg.INPUT.RANDOM_FLIP == "both"
        cfg = cfg.clone()
        cfg.merge_from_list(["INPUT.RANDOM_FLIP", "horizontal"])
        return build_panoptic_train_loader(cfg, start_iter=start_iter)


OWN_VALUES = [
    ("SOLVER.OPTIMIZER", "ADAMW", "another optimizer is a choice of Panoptic-DeepLab"),
    ("SOLVER.LR_SCHEDULER_NAME", "OneCycle", "one of 'WarmupMultiStepLR', 'WarmupCosineLR'"),
    ("INPUT.RANDOM_FLIP", "both", "one of 'horizontal', 'vertical', 'none'"),
]


def test_a_builder_of_ones_own_may_read_its_keys_as_it_likes(make_trainer, tmp_path):
    options = [x for key, value, _ in OWN_VALUES for x in (key, value)]
    trainer = make_trainer(tmp_path, *options, trainer_class=OwnBuilders)
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert type(trainer.scheduler) is torch.optim.lr_scheduler.OneCycleLR
    trainer.train()


@pytest.mark.parametrize(("key", "value", "expected"), OWN_VALUES)
def test_without_one_the_value_is_refused_before_anything_is_written(
    make_trainer, tmp_path, key, value, expected
):
    class Another(Trainer):
        """Builds nothing by itself."""

    for kind in (Trainer, Another):
        with pytest.raises(ConfigError, match=f"{key} is '{value}', expected .*{expected}"):
            make_trainer(tmp_path / "output", key, value, trainer_class=kind)
    assert not (tmp_path / "output").exists()


class PutAtTheEnd(HookBase):
    def after_step(self):
        if self.trainer.iter == self.trainer.max_iter - 1:
            self.trainer.storage.put_scalar("mine", 1.5)


class OwnHook(Trainer):
    def build_hooks(self):
        all_hooks = super().build_hooks()
        all_hooks.insert(-1, PutAtTheEnd())
        return all_hooks


def test_what_a_hook_inserted_before_the_last_one_stores_is_written(
    make_trainer, tmp_path, no_evaluation
):
    options = ["OUTPUT.PLOTS", True, "TEST.EVAL_PERIOD", 2]
    early = ["TEST.EARLY_STOPPING.ENABLED", True]
    trainer = make_trainer(tmp_path, *options, *early, trainer_class=OwnHook)
    assert isinstance(trainer._hooks[-1], hooks.PeriodicWriter)
    trainer._hooks[-1]._readers.pop()  # early stopping: there is no evaluation to look at
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert rows[-1]["mine"] == 1.5
    assert (tmp_path / "report.html").is_file() and (tmp_path / "plots/losses.png").is_file()


@META_ARCH_REGISTRY.register()
class OneLossFPN(PanopticLovaszFPN):
    """Returns its losses as one."""

    def forward(self, batched_inputs):
        outputs = super().forward(batched_inputs)
        return sum(outputs.values()) if self.training else outputs


@SEM_SEG_LOSS_REGISTRY.register()
class OneLoss(torch.nn.Module):
    """Returns a loss without a name."""

    def __init__(self, cfg):
        super().__init__()

    def forward(self, logits, target):
        return logits.square().mean()


@pytest.mark.parametrize("batches", [1, 2])
def test_a_network_and_a_loss_may_return_one_number_as_detectron2s_may(
    make_trainer, tmp_path, no_evaluation, batches
):
    loss = ["MODEL.SEM_SEG_HEAD.LOSS.NAME", "OneLoss", "SOLVER.ACCUMULATE_STEPS", batches]
    names = {}
    for architecture in ("PanopticLovaszFPN", "OneLossFPN"):
        output = tmp_path / architecture
        make_trainer(output, "MODEL.META_ARCHITECTURE", architecture, *loss).train()
        lines = (output / "metrics.json").read_text().splitlines()
        names[architecture] = {key for key in json.loads(lines[-1]) if "loss" in key}
    assert "loss_sem_seg" in names["PanopticLovaszFPN"]
    assert names["OneLossFPN"] == {"total_loss"}


def test_a_test_set_that_no_evaluator_is_for_is_refused_before_the_training(
    make_trainer, tmp_path, request
):
    name = f"plain_{tmp_path.name}"
    DatasetCatalog.register(name, list)
    request.addfinalizer(lambda: (DatasetCatalog.remove(name), MetadataCatalog.pop(name, None)))

    class OwnEvaluators(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return DatasetEvaluators([])

    test = ["DATASETS.TEST", (name,)]
    with pytest.raises(ConfigError, match=rf"'{name}' has the evaluator_type None; expected one"):
        make_trainer(tmp_path, *test)
    make_trainer(tmp_path, *test, trainer_class=OwnEvaluators)


def test_a_mask_r_cnn_is_evaluated_by_its_boxes_and_masks(make_trainer, tmp_path):
    options = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "SOLVER.MAX_ITER", 1]
    trainer = make_trainer(tmp_path, *options)
    trainer.train()
    assert trainer._last_eval_results.keys() == {"bbox", "segm"}
