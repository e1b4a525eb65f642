import functools
import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from panoptic_lovasz import model_zoo
from panoptic_lovasz.errors import CheckpointError, ConfigError
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.model_zoo import publish
from panoptic_lovasz.model_zoo.__main__ import main as print_zoo
from panoptic_lovasz.tools.publish import main as publish_command

PROJECT = Path(__file__).resolve().parents[2]
PHOTO = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
STOCK = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x"
OWN = "COCO-PanopticSegmentation/panoptic_lovasz_R_50_3x"


@pytest.fixture(autouse=True)
def _no_zoo(monkeypatch):
    monkeypatch.delenv("PANOPTIC_LOVASZ_ZOO", raising=False)


@pytest.fixture
def zoo(training_folder, tmp_path):
    """A folder with a published model and an index."""
    folder = tmp_path / "zoo"
    files = publish(training_folder / "model_best.pth", "slim", folder)
    model_zoo.add_to_index(folder / "index.json", files)
    return folder


@pytest.fixture
def served(zoo, tmp_path, monkeypatch):
    """The folder behind a URL; the requests that were made; the cache is a folder of the test."""
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=zoo)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def edit_index(zoo, **fields):
    content = json.loads((zoo / "index.json").read_text())
    content["models"]["slim"].update(fields)
    (zoo / "index.json").write_text(json.dumps(content))


def test_by_default_there_are_our_models_our_configs_without_weights_and_detectron2s_models():
    assert {STOCK, OWN} <= {*model_zoo.list()}
    assert STOCK in model_zoo.list(trained=True)
    assert OWN not in model_zoo.list(trained=True)
    assert not any("Base" in name for name in model_zoo.list())
    assert model_zoo.read_index() == model_zoo.read_index(PROJECT / "zoo")
    assert {*model_zoo.read_index()} <= {*model_zoo.list(trained=True)}


@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_our_names_give_our_configs(suffix):
    cfg = model_zoo.get_config(OWN + suffix)
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticLovaszFPN"
    assert cfg.MODEL.WEIGHTS.startswith("detectron2://ImageNetPretrained/")
    with pytest.raises(ConfigError, match=r"is a config without trained weights.*panoptic_fpn"):
        model_zoo.get_checkpoint(OWN + suffix)


@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_names_of_detectron2s_zoo_give_its_config_and_its_checkpoint(suffix):
    cfg = model_zoo.get_config(STOCK + suffix, trained=True)
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticFPN"
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (80, 54)
    url = model_zoo.get_checkpoint(STOCK + suffix)
    assert url == cfg.MODEL.WEIGHTS
    assert url.startswith("https://") and url.endswith("/model_final_c10459.pkl")
    found = model_zoo.find_model(STOCK + suffix)
    assert (found.weights, found.config_file.endswith(f"{STOCK}.yaml")) == (url, True)


@pytest.mark.parametrize("by_variable", [True, False])
@pytest.mark.parametrize("place", ["", "/", "/index.json"])
def test_a_zoo_is_a_folder_or_its_index(zoo, monkeypatch, by_variable, place):
    location = f"{zoo}{place}"
    if by_variable:
        monkeypatch.setenv("PANOPTIC_LOVASZ_ZOO", location)
        location = None
    assert "slim" in model_zoo.list(trained=True, zoo=location)
    entry = model_zoo.read_index(location)["slim"]
    assert entry.metrics["panoptic_seg/PQ"] == 41.5
    local = model_zoo.get_checkpoint("slim", zoo=location)
    assert local == str(next(zoo.glob("*.safetensors")))  # no copy


def test_a_published_model_is_built_with_its_weights(zoo):
    model = model_zoo.get("slim", zoo=zoo, device="cpu")
    expected = load_file(next(zoo.glob("*.safetensors")))
    assert all(torch.equal(model.state_dict()[name], t) for name, t in expected.items())
    untrained = model_zoo.get("slim", trained=False, zoo=zoo, device="cpu")
    name = "sem_seg_head.p2.0.weight"
    assert not torch.equal(untrained.state_dict()[name], expected[name])
    assert model_zoo.get_config("slim", zoo=zoo).MODEL.WEIGHTS == ""


@pytest.mark.parametrize("device", ["meta", "warp", "cuda:99"])
def test_a_device_on_which_no_model_can_be_built_is_refused_before_building(zoo, device):
    with pytest.raises(ConfigError, match=f"device is '{device}', which cannot be used here"):
        model_zoo.get("slim", zoo=zoo, device=device)


def test_the_predictor_takes_a_name_and_nothing_else(zoo, monkeypatch):
    by_path = PanopticPredictor.from_checkpoint(next(zoo.glob("*.safetensors")))
    by_zoo = PanopticPredictor.from_checkpoint("slim", zoo=zoo)
    monkeypatch.setenv("PANOPTIC_LOVASZ_ZOO", str(zoo))
    by_name = PanopticPredictor.from_checkpoint("slim")
    assert by_name.classes.thing_classes == ("disk", "square", "star")
    for other in (by_zoo, by_name):
        np.testing.assert_array_equal(other(PHOTO).segment_map, by_path(PHOTO).segment_map)


def test_a_zoo_behind_a_url_is_downloaded_once_and_its_index_every_time(served, zoo):
    url, requests = served
    file = next(zoo.glob("*.safetensors")).name
    for _ in range(2):
        assert PanopticPredictor.from_checkpoint("slim", zoo=url).classes.num_things == 3
    assert requests.count(f"/{file}") == 1
    edit_index(zoo, license="new")
    assert model_zoo.read_index(f"{url}/index.json")["slim"].license == "new"
    assert PanopticPredictor.from_checkpoint(f"{url}/{file}").classes.num_things == 3


def test_a_url_that_cannot_be_read_is_named(served):
    url, _ = served
    with pytest.raises(CheckpointError, match=rf"{url}/none\.safetensors cannot be read: .*404"):
        PanopticPredictor.from_checkpoint(f"{url}/none.safetensors")


def test_a_changed_file_is_refused_before_it_is_read(zoo):
    file = next(zoo.glob("*.safetensors"))
    file.write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match=r"is not what the model zoo's index promises"):
        model_zoo.get("slim", zoo=zoo)
    assert file.exists()
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"{file.name} cannot be read"):
        PanopticPredictor.from_checkpoint("slim", zoo=zoo)


def test_a_changed_config_is_refused(zoo):
    with open(zoo / "slim.yaml", "a") as f:
        f.write("OUTPUT_DIR: /etc\n")
    with pytest.raises(CheckpointError, match=r"slim\.yaml is not what"):
        model_zoo.get_config("slim", zoo=zoo)


def test_a_damaged_download_leaves_the_cache(served, zoo):
    url, _ = served
    file = next(zoo.glob("*.safetensors"))
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    with pytest.raises(CheckpointError, match="removed from the cache"):
        model_zoo.get_checkpoint("slim", zoo=url)
    file.write_bytes(content)
    model_zoo.get_checkpoint("slim", zoo=url)


def test_an_unknown_name_is_an_error_with_the_nearest_one(zoo):
    with pytest.raises(ConfigError, match=r"'slym' is not a file.*did you mean slim\?"):
        PanopticPredictor.from_checkpoint("slym", zoo=zoo)
    with pytest.raises(ConfigError, match="'slim' is not a file"):
        model_zoo.get("slim")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "index.json is not JSON"),
        ("[]", "is not an index of a model zoo"),
        ('{"format": 2, "models": {}}', "is not an index of a model zoo of 'format' 1"),
        ('{"format": 1, "models": []}', "'models' must be an object"),
        ('{"format": 1, "models": {"a": 1}}', "'a' is a int, expected an object"),
        (
            '{"format": 1, "models": {"a": {"file": 1}}}',
            "'a' has the field 'file' 1, expected",
        ),
    ],
)
def test_a_damaged_index_is_named(tmp_path, content, message, capsys):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        model_zoo.list(zoo=tmp_path)
    assert print_zoo(["--zoo", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none/index\.json cannot be read"):
        model_zoo.list(zoo=tmp_path / "none")


def test_publishing_adds_to_the_index_and_keeps_what_is_there(zoo, training_folder, capsys):
    index = zoo.parent / "models.json"
    for name in ("one", "two", "one"):
        weights = str(training_folder / "model_best.pth")
        arguments = [weights, "--name", name, "--output", str(zoo), "--index", str(index)]
        assert publish_command(arguments) == 0
    assert {*model_zoo.read_index(index)} == {"one", "two"}
    assert '"zoo/one_' in index.read_text()
    model_zoo.get_checkpoint("two", zoo=index)
    assert print_zoo(["--zoo", str(index)]) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if r.startswith("two "))
    assert row.split() == ["two", "published", "shapes_train", "41.50", "70.00", "52.25"]


def test_a_damaged_index_is_not_overwritten(training_folder, tmp_path, capsys):
    index = tmp_path / "index.json"
    index.write_text("{")
    arguments = [str(training_folder / "model_best.pth"), "--name", "x", "--index", str(index)]
    assert publish_command([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert "index.json is not JSON" in capsys.readouterr().err
    assert index.read_text() == "{"
    assert not (tmp_path / "out").exists()
