import shutil

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from panoptic_lovasz import Trainer
from panoptic_lovasz.data import PanopticFPNDatasetMapper, build_panoptic_train_loader
from panoptic_lovasz.engine.stopping import interrupted_marker
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.reporting.records import add_result, read_results

RUN = ("SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()")


def _final(output):
    return torch.load(output / "model_final.pth", weights_only=True)


def _assert_same_bits(a, b):
    assert a["model"].keys() == b["model"].keys()
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name]), name


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    command.train(output, *RUN)
    return output


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(
    command, uninterrupted, tmp_path, workers
):
    options = (*RUN, "DATALOADER.NUM_WORKERS", workers)

    def saved():
        return (tmp_path / "model_0000003.pth").exists()

    assert command.train_until(saved, "SIGKILL", tmp_path, *options) == -9
    assert not (tmp_path / "model_final.pth").exists()
    unfinished = tmp_path / ".model_0000005.pth.1.tmp"
    unfinished.write_bytes(b"half a checkpoint")
    command.train(tmp_path, *options, flags=["--resume"])
    assert not unfinished.exists()
    _assert_same_bits(_final(tmp_path), _final(uninterrupted))


def test_a_run_killed_between_its_last_checkpoint_and_its_end_is_finished(
    command, uninterrupted, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    command.train(tmp_path, *RUN, flags=["--resume"])
    assert _final(tmp_path)["iteration"] == 7
    _assert_same_bits(_final(tmp_path), _final(uninterrupted))


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_to_all_processes_saves_the_iteration_and_the_next_start_resumes_untold(
    command, uninterrupted, tmp_path, workers
):
    options = (*RUN, "DATALOADER.NUM_WORKERS", workers)

    def started():
        return (tmp_path / "model_0000001.pth").exists()

    assert command.train_until(started, "SIGTERM", tmp_path, *options, to_all=True) == 0
    assert interrupted_marker(tmp_path).is_file()
    assert not (tmp_path / "model_final.pth").exists()
    command.train(tmp_path, *options)
    assert not interrupted_marker(tmp_path).exists()
    _assert_same_bits(_final(tmp_path), _final(uninterrupted))


class _OwnMapper(Trainer):
    """With the mapper of a user's own, as in Detectron2's examples."""

    @classmethod
    def build_train_loader(cls, cfg, start_iter=0):
        mapper = PanopticFPNDatasetMapper(cfg, True, augmentations=[_Gray()])
        return build_panoptic_train_loader(cfg, mapper=mapper, start_iter=start_iter)


class _Stock(_OwnMapper):
    @classmethod
    def build_train_loader(cls, cfg):
        return super().build_train_loader(cfg)


class _Gray(T.Augmentation):
    def get_transform(self, image):
        return T.ColorTransform(lambda pixels: np.full_like(pixels, 128))


@pytest.mark.parametrize("trainer_class", [_OwnMapper, _Stock])
def test_a_resumed_trainer_with_a_loader_of_its_own_goes_on_with_it(
    make_trainer, no_evaluation, tmp_path, caplog, trainer_class
):
    options = ["SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1]
    make_trainer(tmp_path, *options, trainer_class=trainer_class).train()
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    trainer = make_trainer(tmp_path, *options, resume=True, trainer_class=trainer_class)
    assert trainer.start_iter == 1
    batch = next(trainer._trainer._data_loader_iter)
    assert all((item["image"] == 128).all() for item in batch)
    begins_anew = "build_train_loader takes no start_iter" in caplog.text
    assert begins_anew == (trainer_class is _Stock)


def test_a_run_is_not_resumed_with_fewer_iterations_than_it_has(
    make_trainer, no_evaluation, tmp_path
):
    make_trainer(tmp_path, "SOLVER.MAX_ITER", 2).train()
    add_result(tmp_path, 2, {"panoptic_seg/PQ": 77.0})
    with pytest.raises(ConfigError, match=r"MAX_ITER is 1, but the checkpoint in .* has 2 iterat"):
        make_trainer(tmp_path, "SOLVER.MAX_ITER", 1, resume=True)
    assert [row["panoptic_seg/PQ"] for row in read_results(tmp_path)] == [77.0]


@pytest.mark.parametrize("resume", [False, True])
def test_results_of_an_earlier_run_go_when_one_starts_anew_also_without_a_test_set(
    make_trainer, tmp_path, resume
):
    options = ["SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "DATASETS.TEST", ()]
    if resume:
        make_trainer(tmp_path, *options).train()
        (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    add_result(tmp_path, 1, {"panoptic_seg/PQ": 77.0})
    make_trainer(tmp_path, *options, resume=resume).train()
    assert [row["panoptic_seg/PQ"] for row in read_results(tmp_path)] == ([77.0] if resume else [])
