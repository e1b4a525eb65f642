"""Set-up rewrites packages of the index into wheels that fit; the recipes are data."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

WHEELS = Path(__file__).parents[1] / "dev" / "wheels"
BUILD_DIR = WHEELS.parents[1] / ".build"
RECIPES = sorted(WHEELS.glob("*.yaml"))


def _import(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wheels = _import(WHEELS / "build.py")


def _load(recipe: Path) -> dict:
    return yaml.safe_load(recipe.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recipe() -> dict:
    return _load(WHEELS / "detectron2.yaml")


@pytest.fixture(scope="module")
def sources(recipe, tmp_path_factory) -> Path:
    """Detectron2's sources as the index has them, laid out as in the wheel but not rewritten."""
    archive = BUILD_DIR / recipe["source"]["file"]
    if not archive.is_file():
        pytest.skip(f"needs {archive}, which set-up downloads for a Detectron2 of its own")
    root = tmp_path_factory.mktemp("sources")
    with wheels.unpacked(shutil.copy(archive, root) and root / archive.name) as unpacked:
        for origin, package in recipe["packages"].items():
            shutil.copytree(unpacked / origin, root / package, dirs_exist_ok=True)
    return root


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_pins_its_source_labels_its_version_and_explains_every_rule(path):
    recipe = _load(path)
    assert "==" in recipe["source"]["requirement"]
    assert re.fullmatch("[0-9a-f]{64}", recipe["source"]["sha256"])
    assert "+" in recipe["version"], "a rewritten package must not pass for the original"
    for rule in recipe.get("rules", []):
        assert rule.keys() == {"why", "files", "pattern", "replacement", "count"}
        assert rule["why"].endswith(".") and rule["count"] > 0
        re.compile(rule["pattern"])


def test_every_rule_changes_as_many_places_as_it_says(recipe, sources, tmp_path):
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    for rule in recipe["rules"]:
        assert wheels.apply_rule(rule, tmp_path) == rule["count"], rule["why"]


def test_no_rule_applies_twice(recipe, sources, tmp_path):
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    for rule in recipe["rules"]:
        wheels.apply_rule(rule, tmp_path)
        with pytest.raises(wheels.BuildError, match="changed 0 places"):
            wheels.apply_rule(rule, tmp_path)


@pytest.mark.parametrize("text, found", [("nothing", 0), ("old old", 2)])
def test_a_rule_that_changes_another_number_of_places_is_an_error(tmp_path, text, found):
    (tmp_path / "a.py").write_text(text)
    rule = {"files": "*.py", "pattern": "old", "replacement": "new", "count": 1}
    with pytest.raises(wheels.BuildError, match=f"changed {found} places, expected 1"):
        wheels.apply_rule(rule, tmp_path)


def test_a_rule_whose_file_is_gone_is_an_error(tmp_path):
    rule = {"files": ["a.py"], "pattern": "old", "replacement": "new", "count": 1}
    with pytest.raises(wheels.BuildError, match=r"there is no file a\.py"):
        wheels.apply_rule(rule, tmp_path)


def _index(folder: Path, project: str, archive: str, content: bytes) -> str:
    """A package index in a folder, with one file; its URL."""
    page = folder / "simple" / project
    page.mkdir(parents=True)
    (page / archive).write_bytes(content)
    (page / "index.html").write_text(f'<a href="{archive}">{archive}</a>')
    return (folder / "simple").as_uri()


SOURCE = {
    "requirement": "thing==1.0",
    "file": "thing-1.0.tar.gz",
    "sha256": "f22d57abe14cb84e4e5a2c4d3dc0b4ec0a2d21e0e6e9dd1e3e0d2eb4f2a2b1c0",
}


def test_a_file_with_another_hash_is_refused_and_not_kept(tmp_path, monkeypatch):
    url = _index(tmp_path / "index", "thing", SOURCE["file"], b"something else")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    with pytest.raises(wheels.BuildError, match=r"has sha256 .* expected f22d57"):
        wheels.fetch(SOURCE, tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == []


def test_a_file_is_fetched_by_name_from_pips_index_and_then_kept(tmp_path, monkeypatch):
    folder = tmp_path / "a folder with ümläuts"
    url = _index(folder / "index", "thing", SOURCE["file"], b"content")
    source = {**SOURCE, "sha256": wheels.hashlib.sha256(b"content").hexdigest()}
    monkeypatch.setenv("PIP_INDEX_URL", url)
    assert wheels.fetch(source, folder / "build").read_bytes() == b"content"

    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "gone").as_uri())
    assert wheels.fetch(source, folder / "build").read_bytes() == b"content"


def test_a_file_that_no_index_has_is_an_error_that_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "pip_places", lambda: [["--find-link", str(tmp_path)]])
    with pytest.raises(wheels.BuildError, match=r"put thing-1\.0\.tar\.gz into .* by hand"):
        wheels.fetch(SOURCE, tmp_path / "build")


def test_a_bad_recipe_stops_the_command_with_one_line(tmp_path, recipe):
    bad = {**recipe, "source": {**recipe["source"], "file": "x.tar.gz", "requirement": "x==0"}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(bad))
    environment = {"PATH": "/usr/bin:/bin", "PIP_INDEX_URL": tmp_path.as_uri()}
    command = [sys.executable, WHEELS / "build.py", tmp_path / "bad.yaml"]
    run = subprocess.run(
        [*command, "--build-dir", tmp_path], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1 and run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"{tmp_path}/bad.yaml: no package index has x==0")


# ------------------------------------------------------- the wheel that set-up installed


@pytest.fixture
def pure_detectron2(recipe) -> Path:
    if importlib.metadata.version("detectron2") != recipe["version"]:
        pytest.skip("this environment has a Detectron2 of its own")
    return Path(importlib.util.find_spec("detectron2").origin).parent


def test_the_installed_detectron2_has_its_projects_and_model_zoo(pure_detectron2):
    from detectron2 import model_zoo
    from detectron2.projects import deeplab, panoptic_deeplab, point_rend

    assert deeplab.add_deeplab_config and point_rend.add_pointrend_config
    assert panoptic_deeplab.add_panoptic_deeplab_config
    assert len(list((pure_detectron2 / "model_zoo" / "configs").rglob("*.yaml"))) == 92
    cfg = model_zoo.get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticFPN"
    with pytest.raises(RuntimeError, match="not available in Model Zoo"):
        model_zoo.get_config("no/such.yaml")


def test_operators_of_the_native_extension_say_so_when_they_are_called(pure_detectron2):
    from detectron2.layers import ModulatedDeformConv, ROIAlignRotated, nms_rotated
    from detectron2.structures import RotatedBoxes, pairwise_iou_rotated

    image, boxes = torch.rand(1, 1, 8, 8), torch.rand(2, 5)
    calls = {
        "roi_align_rotated_forward": lambda: ROIAlignRotated(2, 1.0, 0)(image, torch.rand(1, 6)),
        "nms_rotated": lambda: nms_rotated(boxes, torch.rand(2), 0.5),
        "box_iou_rotated": lambda: pairwise_iou_rotated(RotatedBoxes(boxes), RotatedBoxes(boxes)),
    }
    for operator, call in calls.items():
        with pytest.raises(NotImplementedError, match=f"_C.{operator} .*pure-Python build"):
            call()
    assert ModulatedDeformConv(1, 1, 3)  # can be made, so that a config which names it loads


def test_the_fast_coco_evaluation_is_pycocotools_own(pure_detectron2):
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
    from pycocotools.cocoeval import COCOeval

    assert COCOeval_opt is COCOeval


def test_the_state_of_pytorchs_own_schedulers_is_saved(pure_detectron2):
    from detectron2.engine.hooks import LRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    assert LRScheduler(optimizer, scheduler).state_dict()["last_epoch"] == 0


def test_a_sample_that_fails_is_replaced_by_another(pure_detectron2):
    from detectron2.data import DatasetFromList, MapDataset

    data = MapDataset(DatasetFromList([1, 2]), lambda x: x if x == 1 else None)
    assert data[0] == data[1] == 1


def test_tracing_and_scripting_import_without_caffe2(pure_detectron2):
    from detectron2.export import TracingAdapter, scripting_with_instances

    assert callable(TracingAdapter) and callable(scripting_with_instances)
