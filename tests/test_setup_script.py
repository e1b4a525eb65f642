"""dev/setup.sh, run with a stand-in for the environment's Python that notes how it is called."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAND_IN = """#!/usr/bin/env bash
echo "$*" >> "$(dirname "$0")/../calls"
case "$*" in
    *"$FAIL"*) [[ -z $FAIL ]] || { echo "ERROR: no such thing" >&2; exit 1; } ;;
esac
[[ $1 != - ]] || echo "$USERS_DETECTRON2"
"""


class Project:
    """A copy of what set-up reads, with an environment whose Python is the stand-in."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = folder / "an environment"
        for pattern in ("dev/setup.sh", "dev/wheels/*", "dev/requirements/*", "requ*.txt"):
            for file in ROOT.glob(pattern):
                if file.is_file():
                    self.write(file.relative_to(ROOT), file.read_text())
        self.write("setup.py", "")
        python = self.environment / "bin" / "python"
        self.write(python, STAND_IN)
        python.chmod(0o755)

    def write(self, name, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def set_up(self, **settings) -> subprocess.CompletedProcess:
        variables = {"VENV": str(self.environment), "FAIL": "", "USERS_DETECTRON2": "", **settings}
        return subprocess.run(
            ["bash", self.folder / "dev" / "setup.sh"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """How the environment's Python was called since this was last asked."""
        log = self.environment / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "a project")


def _one_line(run: subprocess.CompletedProcess) -> str:
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("set-up failed: ")
    return line


def test_set_up_that_is_done_calls_nothing(project):
    assert project.set_up().returncode == 0
    assert any("-r requirements.txt" in call for call in project.calls())
    again = project.set_up()
    assert again.returncode == 0 and "up to date" in again.stdout
    assert project.calls() == []


@pytest.mark.parametrize(
    "changed", ["requirements.txt", "dev/wheels/detectron2.yaml", "setup.py", "dev/setup.sh"]
)
def test_set_up_runs_again_when_what_it_was_made_from_changes(project, changed):
    project.set_up()
    project.calls()
    project.write(changed, (project.folder / changed).read_text() + "\n# changed\n")
    assert project.set_up().returncode == 0
    assert any("pip install" in call for call in project.calls())


@pytest.mark.parametrize("step", ["-r requirements.txt", "build.py", "selfcheck.py"])
def test_set_up_that_failed_goes_on_when_run_again(project, step):
    failed = project.set_up(FAIL=step)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("set-up failed: ")
    project.calls()
    assert project.set_up().returncode == 0
    assert any(step in call for call in project.calls())


def test_a_detectron2_that_the_user_brought_is_kept(project):
    assert "Keeping Detectron2 0.7" in project.set_up(USERS_DETECTRON2="0.7").stdout
    calls = project.calls()
    assert not any("-r requirements.txt" in call or "detectron2.yaml" in call for call in calls)
    installs = [call for call in calls if "pip install" in call]
    assert installs and all("--constraint .build/kept.txt" in call for call in installs)


def test_an_unreachable_index_is_one_line_with_what_pip_says(project):
    line = _one_line(project.set_up(FAIL="pip download"))
    assert "no Python package index is reachable. pip says: ERROR: no such thing" in line


def test_a_python_that_does_not_fit_is_one_line(project, tmp_path):
    new = str(tmp_path / "new environment")
    line = _one_line(project.set_up(VENV=new, PYTHON="/no/such/python"))
    assert "needs Python 3.10, 3.11 or 3.12, but /no/such/python is: not found" in line
    line = _one_line(project.set_up(VENV=new, PYTHON="/bin/false"))
    assert "/bin/false is: " in line


def test_a_folder_that_is_no_environment_is_left_alone(project, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    line = _one_line(project.set_up(VENV=str(tmp_path / "precious")))
    assert "is not a Python environment" in line
    assert [p.name for p in (tmp_path / "precious").iterdir()] == ["file"]


def test_too_little_disk_space_is_one_line(project):
    (project.environment / ".made-by-setup").touch()
    project.write("bin/df", "#!/bin/sh\necho Header\necho disk 9 9 1048576 1% /\n")
    (project.folder / "bin" / "df").chmod(0o755)
    line = _one_line(project.set_up(PATH=f"{project.folder}/bin:{os.environ['PATH']}"))
    assert "needs 9 GB of disk space" in line and "has 1 GB free" in line


def test_packages_that_an_interruption_left_half_installed_are_installed_again(project):
    (project.environment / ".made-by-setup").touch()
    packages = project.environment / "lib" / "python3.11" / "site-packages"
    for name in ("whole.dist-info/RECORD", "half.dist-info/METADATA", "~moved/__init__.py"):
        project.write(packages / name, "")
    project.set_up()
    assert [p.name for p in packages.iterdir()] == ["whole.dist-info"]


def test_a_users_own_environment_is_not_cleaned_up(project):
    packages = project.environment / "lib" / "python3.11" / "site-packages"
    project.write(packages / "other.dist-info" / "METADATA", "")
    project.set_up()
    assert (packages / "other.dist-info").is_dir()
