"""Averaged weights, and resuming with them and with accumulated gradients."""

import shutil

import pytest
import torch
import yaml

from panoptic_lovasz import Trainer
from panoptic_lovasz.checkpoint import load_weights, read_weights
from panoptic_lovasz.checkpoint.averaged import averaged_weights
from panoptic_lovasz.engine.averaging import AverageWeights
from panoptic_lovasz.errors import CheckpointError, ConfigError
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.model_zoo import publish

EMA = ["SOLVER.EMA.ENABLED", True]


def _assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.999])
def test_the_average_of_an_iteration_is_that_of_the_formula(decay):
    model = torch.nn.BatchNorm1d(3).double()
    hook = AverageWeights(model, decay)
    values = torch.randn(5, 3).double()
    with torch.no_grad():
        model.weight.copy_(values[0])
    hook.before_train()
    expected = values[0]
    for n, value in enumerate(values[1:], start=1):
        with torch.no_grad():
            model.weight.copy_(value)
            model.running_var.copy_(value)
        hook.after_step()
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    torch.testing.assert_close(hook.averaged.module.weight, expected)
    variance = hook.averaged.module.running_var  # buffers are averaged, too
    assert not torch.equal(variance, torch.ones(3)) and variance.isfinite().all()
    assert not hook.averaged.module.weight.requires_grad


def test_a_resumed_run_with_averages_and_accumulation_ends_with_the_same_bits(
    make_trainer, no_evaluation, tmp_path
):
    options = [*EMA, "SOLVER.ACCUMULATE_STEPS", 2, "SOLVER.IMS_PER_BATCH", 1]
    options += ["SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    make_trainer(whole, *options).train()
    resumed.mkdir()
    shutil.copy(whole / "model_0000001.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    trainer = make_trainer(resumed, *options, resume=True)
    assert trainer.start_iter == 2
    trainer.train()
    a, b = (torch.load(f / "model_final.pth", weights_only=True) for f in (whole, resumed))
    _assert_same_bits(a["model"], b["model"])
    _assert_same_bits(a["ema"], b["ema"])
    assert a["ema"]["n_averaged"] == 5  # the start and four steps
    assert not torch.equal(
        a["model"]["backbone.fpn_lateral2.weight"], a["ema"]["module.backbone.fpn_lateral2.weight"]
    )


def test_what_is_evaluated_is_what_was_asked_for(make_trainer, no_evaluation, tmp_path):
    for use in (False, True):
        trainer = make_trainer(tmp_path, *EMA, "TEST.EMA", use, "SOLVER.MAX_ITER", 1)
        trainer.train()
        evaluated = no_evaluation.pop()
        assert (evaluated is trainer.model) != use
        assert evaluated.state_dict().keys() == trainer.model.state_dict().keys()


def test_averages_start_with_the_weights_of_a_checkpoint_that_has_none(
    make_trainer, no_evaluation, tmp_path
):
    make_trainer(tmp_path, "SOLVER.MAX_ITER", 1).train()
    trainer = make_trainer(tmp_path, *EMA, "SOLVER.MAX_ITER", 1, resume=True)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    checkpoint = trainer.checkpointer.checkpointables["ema"]
    _assert_same_bits(checkpoint.module.state_dict(), before)


@pytest.fixture
def folder_with_averages(training_folder, tmp_path):
    """A training folder whose averaged weights are half the trained ones."""
    folder = shutil.copytree(training_folder, tmp_path / "training")
    checkpoint = torch.load(folder / "model_best.pth", weights_only=True)
    halves = {f"module.{k}": v / 2 for k, v in checkpoint["model"].items()}
    checkpoint["ema"] = {"n_averaged": torch.tensor(3), **halves}
    torch.save(checkpoint, folder / "model_best.pth")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["SOLVER"]["EMA"]["ENABLED"] = config["TEST"]["EMA"] = True
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_predictions_are_made_with_the_averages_that_the_folders_config_asks_for(
    folder_with_averages,
):
    file = folder_with_averages / "model_best.pth"
    trained = read_weights(file)["model"]
    name = "sem_seg_head.predictor.weight"
    averaged = PanopticPredictor.from_checkpoint(file).model.state_dict()
    torch.testing.assert_close(averaged[name], trained[name] / 2, rtol=0, atol=0)
    other = PanopticPredictor.from_checkpoint(file, ["TEST.EMA", False]).model.state_dict()
    torch.testing.assert_close(other[name], trained[name], rtol=0, atol=0)


def test_a_published_model_is_the_averages_alone(folder_with_averages, tmp_path):
    files = publish(folder_with_averages / "model_best.pth", "halves", tmp_path / "zoo")
    trained = read_weights(folder_with_averages / "model_best.pth")["model"]
    published = read_weights(files.safetensors)
    assert published.keys() == trained.keys()
    name = "sem_seg_head.predictor.weight"
    torch.testing.assert_close(published[name], trained[name] / 2, rtol=0, atol=0)
    loaded = PanopticPredictor.from_checkpoint(files.safetensors).model.state_dict()
    torch.testing.assert_close(loaded[name], trained[name] / 2, rtol=0, atol=0)


def test_asking_for_averages_that_are_not_there_is_an_error(training_folder):
    with pytest.raises(CheckpointError, match=r"no averaged weights \('ema'\), which TEST\.EMA"):
        load_weights(torch.nn.Linear(1, 1), training_folder / "model_best.pth", averaged=True)
    with pytest.raises(CheckpointError, match="no averaged weights"):
        averaged_weights({"ema": 3}, "a.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["TEST.EMA", True], r"TEST\.EMA is True, expected False: nothing is averaged"),
        (
            ["SOLVER.EMA.DECAY", 1.0],
            r"EMA\.DECAY is 1\.0, expected a number from 0 to below 1",
        ),
        (["SOLVER.ACCUMULATE_STEPS", 0], r"ACCUMULATE_STEPS is 0, expected a number above 0"),
    ],
)
def test_values_that_cannot_be_are_refused(slim_cfg, options, message):
    cfg = slim_cfg.clone()
    cfg.merge_from_list(options)
    with pytest.raises(ConfigError, match=message):
        Trainer(cfg)
