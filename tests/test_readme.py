"""The README's page on own data, followed as written but for the length of the training."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json, make_shapes
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.data.shapes import SHAPES_CATEGORIES

PROJECT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """A folder like the project's, with label PNGs in my_data/ as the README describes them."""
    for name in ("configs", "train_net.py", "demo.py"):
        (tmp_path / name).symlink_to(PROJECT / name)
    shapes = make_shapes(tmp_path / "shapes", num_train=8, num_val=4, size=96, progress=False)
    for split in ("train", "val"):
        target = tmp_path / "my_data" / split
        (target / "semantic").mkdir(parents=True)
        (target / "instances").mkdir()
        (target / "images").symlink_to(shapes / split)
        dicts = load_coco_panoptic_json(
            shapes / f"annotations/{split}.json", shapes / split, shapes / f"panoptic_{split}"
        )
        content = json.loads((shapes / f"annotations/{split}.json").read_text())
        for record, annotation in zip(dicts, content["annotations"], strict=True):
            _write_labels(record, annotation["segments_info"], target)
    return tmp_path


def _write_labels(record, segments, target):
    ids = read_panoptic_png(record["pan_seg_file_name"])
    semantic, numbers = np.full(ids.shape, 255, np.uint8), np.zeros(ids.shape, np.uint8)
    for n, segment in enumerate(segments, start=1):
        semantic[ids == segment["id"]] = segment["category_id"]
        numbers[ids == segment["id"]] = 0 if segment["iscrowd"] else n
    name = Path(record["file_name"]).name
    Image.fromarray(semantic).save(target / "semantic" / name)
    Image.fromarray(numbers).save(target / "instances" / name)


def _page():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    page = text[text.index("## Train on your own data") :]
    return BLOCK.findall(page[: page.index("\n## ", 5)])


def _run(command, folder):
    environment = {k: v for k, v in os.environ.items() if k != "DETECTRON2_DATASETS"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    outcome = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert outcome.returncode == 0, f"{command}\n{outcome.stdout[-1500:]}{outcome.stderr[-3000:]}"
    return outcome.stdout + outcome.stderr


def test_own_data_becomes_a_trained_model_and_a_pq_table_by_the_readmes_commands(folder):
    (_, categories), *blocks = _page()
    assert all(set(c) == {"id", "name", "isthing", "color"} for c in json.loads(categories))
    (folder / "my_data/categories.json").write_text(json.dumps(SHAPES_CATEGORIES))
    output = ""
    for language, text in blocks:
        if language == "yaml":
            assert len(text.splitlines()) < 15
            (folder / "my_config.yaml").write_text(text)
        elif "train_net.py" in text:
            output = _run(f"{text.strip()} SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2", folder)
        else:
            _run(text, folder)
    assert "panoptic_seg" in output and "PQ" in output
    assert (folder / "my_data/classes.png").is_file()
    assert list((folder / "output/my_model/pictures").rglob("*.png"))
