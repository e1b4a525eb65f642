"""Two machines, which are two launchers on this one, against one process."""

from pathlib import Path

import pytest
import torch
from programs import workers

pytestmark = pytest.mark.slow


def _outputs(processes):
    """What processes print that end well."""
    outputs = [process.communicate() for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, stderr[-3000:]
    return "".join(stdout + stderr for stdout, stderr in outputs)


def _on_two_machines(command, *program):
    """What a program prints on two machines with one worker each."""
    return _outputs([command.start(*program, **env) for env in workers(2, per_machine=1)])


def _torchrun(rank, port):
    nodes = ("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", rank)
    master = ("--master-addr", "127.0.0.1", "--master-port", port)
    return ["-m", "torch.distributed.run", *nodes, *master, "train_net.py"]


def _detectron2(rank, port):
    machine = ("--num-machines", "2", "--machine-rank", rank)
    return ["train_net.py", *machine, "--dist-url", f"tcp://127.0.0.1:{port}"]


def _results(text):
    """Task -> its row of metrics, as Detectron2 prints them for copying."""
    rows = [line.rpartition("copypaste: ")[2] for line in text.splitlines() if "copypaste" in line]
    return {task: rows[i + 2] for i, task in enumerate(rows) if task.startswith("Task: ")}


@pytest.mark.parametrize("launcher", [_torchrun, _detectron2])
def test_two_machines_train_together(command, launcher, tmp_path):
    arguments = command.train_arguments(tmp_path, "DATASETS.TEST", "()")
    port = workers(2, per_machine=1)[0]["MASTER_PORT"]
    _outputs([command.start(*launcher(rank, port), *arguments) for rank in (0, 1)])
    assert "Rank of current process: 0. World size: 2" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "model_final.pth").is_file()


def test_two_machines_evaluate_to_the_result_of_one(command, tmp_path):
    command.train(tmp_path, "DATASETS.TEST", "()")
    options = ("MODEL.WEIGHTS", tmp_path / "model_final.pth")
    flags = ["--eval-only"]
    arguments = command.train_arguments(tmp_path / "two", *options, flags=flags)
    two = _results(_on_two_machines(command, "train_net.py", *arguments))
    outcome = command.train(tmp_path / "one", *options, flags=flags)
    one = _results(outcome.stdout + outcome.stderr)
    assert {"Task: panoptic_seg", "Task: bbox", "Task: segm"} <= one.keys()
    assert two == one


def test_a_process_whose_images_have_no_label_neither_hangs_nor_spoils_the_training(
    command, tmp_path
):
    program = Path(__file__).with_name("other_on_one_rank.py")
    options = ("DATASETS.TEST", "()", "MODEL.SEM_SEG_HEAD.LOSS.GLOBAL_BATCH", "True")
    arguments = command.train_arguments(tmp_path, *options)
    _on_two_machines(command, program, "no labels", *arguments)
    weights = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in weights.values())
