"""Two machines, which are two launchers on this one, against one process."""

import socket

import pytest

pytestmark = pytest.mark.slow


def _on_two_machines(command, *train):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = [
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--master-addr", "127.0.0.1", "--master-port", port),
    ]
    processes = [
        command.start(*launcher, "--node-rank", rank, "train_net.py", *train) for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, stderr[-3000:]
    return "".join(stdout + stderr for stdout, stderr in outputs)


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    output = tmp_path_factory.mktemp("two_machines")
    _on_two_machines(command, *command.train_arguments(output, "DATASETS.TEST", "()"))
    return output


def _results(text):
    """Task -> its row of metrics, as Detectron2 prints them for copying."""
    rows = [line.rpartition("copypaste: ")[2] for line in text.splitlines() if "copypaste" in line]
    return {task: rows[i + 2] for i, task in enumerate(rows) if task.startswith("Task: ")}


def test_two_machines_train_together(trained):
    assert "Rank of current process: 0. World size: 2" in (trained / "log.txt").read_text()
    assert (trained / "model_final.pth").is_file()


def test_two_machines_evaluate_to_the_result_of_one(command, trained, tmp_path):
    options = ("MODEL.WEIGHTS", trained / "model_final.pth")
    flags = ["--eval-only"]
    arguments = command.train_arguments(tmp_path / "two", *options, flags=flags)
    two = _results(_on_two_machines(command, *arguments))
    outcome = command.train(tmp_path / "one", *options, flags=flags)
    one = _results(outcome.stdout + outcome.stderr)
    assert {"Task: panoptic_seg", "Task: bbox", "Task: segm"} <= one.keys()
    assert two == one
