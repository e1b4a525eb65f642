"""The notebook, run from top to bottom as a reader does."""

import os
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.slow
def test_the_quick_start_runs_from_top_to_bottom(monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("QUICKSTART_ITERATIONS", "10")
    monkeypatch.setenv(
        "PYTHONPATH", f"{DOCS.parent / 'projects'}{os.pathsep}{os.getenv('PYTHONPATH', '')}"
    )
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed as it was written
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": DOCS}}).execute()
    shown = "".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    for text in ("model_best.pth", "image/png", "mIoU", "CE + Lovász", "model.safetensors"):
        assert text in shown
