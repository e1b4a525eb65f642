"""The whole path as a user takes it, in processes of their own, on a handful of small images."""

import json

import cv2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

from panoptic_lovasz import add_panoptic_lovasz_config


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    command.train(output)
    return output


def _metrics(output):
    """The last value of every metric."""
    metrics = {}
    for line in (output / "metrics.json").read_text().splitlines():
        metrics.update(json.loads(line))
    return metrics


def test_training_writes_weights_config_and_every_evaluation(trained):
    assert (trained / "model_final.pth").is_file() and (trained / "config.yaml").is_file()
    last = _metrics(trained)
    for key in ("panoptic_seg/PQ", "panoptic_seg/PQ_th", "sem_seg/mIoU", "bbox/AP", "segm/AP"):
        assert key in last
    for loss in ("loss_sem_seg_ce", "loss_sem_seg_lovasz", "loss_rpn_cls", "loss_cls", "loss_mask"):
        assert loss in last


def test_a_saved_model_is_evaluated_with_the_same_result(command, trained):
    weights = trained / "model_final.pth"
    config = (trained / "config.yaml").read_bytes()
    options = ("MODEL.WEIGHTS", weights, "TEST.DETECTIONS_PER_IMAGE", "99")
    outcome = command.train(trained, *options, flags=["--eval-only"])
    assert (trained / "config.yaml").read_bytes() == config  # it is the training's
    final = _metrics(trained)["panoptic_seg/mIoU"]
    lines = (outcome.stdout + outcome.stderr).splitlines()
    start = next(i for i, line in enumerate(lines) if "Task: panoptic_seg" in line)
    names = lines[start + 1].rpartition(" ")[2].split(",")
    values = lines[start + 2].rpartition(" ")[2].split(",")
    assert float(values[names.index("mIoU")]) == pytest.approx(final, abs=1e-3)


def test_a_published_model_is_evaluated_from_its_one_file(command, trained, tmp_path):
    publish = ["-m", "panoptic_lovasz.tools.publish", trained, "--name", "m", "--output", tmp_path]
    assert command.run(*publish).returncode == 0
    (file,) = tmp_path.glob("*.safetensors")
    evaluate = ["--eval-only", "--num-gpus", "0", "OUTPUT_DIR", tmp_path / "output"]
    outcome = command.run("train_net.py", "--config-file", file, *evaluate)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert "Task: panoptic_seg" in outcome.stdout + outcome.stderr


def test_a_resumed_run_goes_on_after_its_last_iteration_with_the_optimizers_state(command, trained):
    command.train(trained, "SOLVER.MAX_ITER", "5", flags=["--resume"])
    log = (trained / "log.txt").read_text()
    assert "Starting training from iteration 3" in log
    state = torch.load(trained / "model_final.pth", weights_only=True)
    assert state["iteration"] == 4
    assert "optimizer" in state["trainer"]["_trainer"]


def test_torchrun_trains_and_evaluates_on_two_processes(command, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command.train(tmp_path, launcher=launcher)
    last = _metrics(tmp_path)
    assert "panoptic_seg/PQ" in last and "loss_sem_seg_lovasz" in last
    assert "Rank of current process: 0. World size: 2" in (tmp_path / "log.txt").read_text()


def test_detectron2s_predictor_takes_the_config_that_training_wrote(command, trained):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.merge_from_file(str(trained / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(trained / "model_final.pth")
    image = cv2.imread(str(command.datasets / "shapes/val/000000.png"))
    prediction = DefaultPredictor(cfg)(image)
    panoptic_seg, segments_info = prediction["panoptic_seg"]
    assert panoptic_seg.shape == image.shape[:2]
    assert {s["id"] for s in segments_info} == set(panoptic_seg.unique().tolist()) - {0}


def test_the_demo_draws_good_images_skips_bad_ones_and_tells_by_its_exit_code(
    command, trained, tmp_path
):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    good = (command.datasets / "shapes/val/000000.png").read_bytes()
    (inputs / "good.png").write_bytes(good)
    (inputs / "broken.png").write_bytes(good[:200])
    demo = [
        "demo.py",
        "--config-file",
        command.config,
        "--input",
        inputs,
        "--output",
        tmp_path / "out",
    ]
    outcome = command.run(*demo, "--opts", "MODEL.WEIGHTS", trained / "model_final.pth")
    assert outcome.returncode == 1
    assert "broken.png" in outcome.stdout + outcome.stderr
    assert [p.name for p in (tmp_path / "out").glob("*.png")] == ["good.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.NO_SUCH_KEY", "1"], "MODEL.NO_SUCH_KEY"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"], r"NUM_CLASSES is 4, but the data set"),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_the_key(command, tmp_path, options, message):
    outcome = command.run("train_net.py", *command.train_arguments(tmp_path, *options))
    assert outcome.returncode != 0
    assert message in outcome.stderr


def test_data_that_is_not_there_is_named_with_where_it_was_looked_for(command, tmp_path):
    elsewhere = type(command)(tmp_path)
    outcome = elsewhere.run("train_net.py", *command.train_arguments(tmp_path))
    assert outcome.returncode != 0
    assert "annotations/train.json does not exist" in outcome.stderr
    assert "DETECTRON2_DATASETS" in outcome.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_mixed_precision_without_cuda_is_one_error_that_names_the_key(command, tmp_path):
    arguments = command.train_arguments(tmp_path, "SOLVER.AMP.ENABLED", "True")
    outcome = command.run("train_net.py", *arguments)
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1].startswith("error: SOLVER.AMP.ENABLED: found True")
