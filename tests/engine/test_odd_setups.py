"""Training where little can be written, below names that are not plain, without assertions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def read_only(tmp_path):
    """A function that takes from a folder the right to be written, for root, too."""
    mounted = []

    def protect(folder):
        try:
            subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=True)
            mounted.append(folder)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        except (FileNotFoundError, subprocess.CalledProcessError):
            for path in [folder, *folder.rglob("*")]:
                path.chmod(path.stat().st_mode & ~0o222)
        if os.access(folder, os.W_OK):
            pytest.skip("needs a user other than root, or the right to mount")

    yield protect
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_it_trains_from_read_only_data_without_a_home_and_without_assertions(
    command, tmp_path, read_only, monkeypatch
):
    data, home = tmp_path / "Größere Daten", tmp_path / "home"
    shutil.copytree(command.datasets, data)
    home.mkdir()
    read_only(data)
    read_only(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    output = tmp_path / "Läufe" / "erster Lauf"
    python = [sys.executable, "-O", "train_net.py"]
    train = [*python, *map(str, command.train_arguments(output))]
    outcome = subprocess.run(train, cwd=PROJECT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert (output / "model_final.pth").is_file() and (output / "report.html").is_file()
    outcome = subprocess.run([*python, "--config-file", "none.yaml"], cwd=PROJECT)
    assert outcome.returncode == 1


def test_an_output_folder_that_cannot_be_written_is_one_error_that_names_it(
    command, tmp_path, read_only
):
    output = tmp_path / "output"
    output.mkdir()
    read_only(output)
    outcome = command.run("train_net.py", *command.train_arguments(output))
    assert outcome.returncode == 1
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("error: ") and str(output) in last
