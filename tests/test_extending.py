"""docs/extending.md, followed as written in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`([\w./]+)`:\n\n)?^```(python|yaml|diff)\n(.*?)^```", re.M | re.S)
SECTIONS = dict(re.findall(r"^## (A .+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def blocks(section):
    """(file or "", language, text) of the blocks of a section."""
    return BLOCK.findall(SECTIONS[section])


def apply(diff, text):
    """A file's text after a diff of context and added lines."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] != "+")
    assert text.count(before) == 1, f"the page shows lines that are not in the file:\n{before}"
    return text.replace(before, "".join(line[1:] for line in lines if line[0] != "-"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the example of each section said, run in one process, for its imports take long."""
    folder = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "projects", folder / "projects", ignore=ignored)
    (folder / "configs").symlink_to(PROJECT / "configs")
    program = "import sys, traceback\nsys.modules['numba'] = None  # compiling would take long\n"
    for section in SECTIONS:
        for file, language, text in blocks(section):
            target = folder / file
            if not file:
                program += f"try:\n    exec({text!r}, {{}})\n    print({section!r}, 'works')\n"
                program += "except Exception:\n    traceback.print_exc(file=sys.stdout)\n"
            elif language == "diff":
                target.write_text(apply(text, target.read_text()))
            else:
                assert not target.exists()
                target.write_text(text)
    (folder / "program.py").write_text(program)
    outcome = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder / "projects"),
            "PANOPTIC_LOVASZ_PLUGINS": "my_loss,my_backbone",
        },
        capture_output=True,
        text=True,
    )
    return outcome.stdout + outcome.stderr


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_of_the_page_works_as_written(outcomes, section):
    assert f"{section} works" in outcomes.splitlines(), outcomes


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_counts_the_files_that_a_change_touches(section):
    files = [(language == "diff", file) for file, language, _ in blocks(section) if file]
    new, changed = sum(not c for c, _ in files), sum(c for c, _ in files)
    anchor = section.lower().replace(" ", "-")
    assert f"| [{section[0].lower()}{section[1:]}](#{anchor}) | {new} | {changed} |" in PAGE
