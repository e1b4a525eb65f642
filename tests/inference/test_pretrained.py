"""Folders in the Hugging Face Hub's layout: written, read, and not trusted."""

import json
import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from panoptic_lovasz import load_config
from panoptic_lovasz.checkpoint import read_model_info
from panoptic_lovasz.errors import CheckpointError, ConfigError
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.model_zoo import publish

METRICS = {"panoptic_seg/PQ": 41.5, "panoptic_seg/PQ_th": 40.25, "panoptic_seg/PQ-sky": 80.0}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture(scope="session")
def saved(predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "Meine Formen"
    predictor.save_pretrained(folder, license="CC-BY-4.0", metrics=METRICS)
    return folder


@pytest.fixture
def changed(saved, tmp_path):
    """Function that copies the folder with another config.json, which ``change`` makes of its."""

    def copy(change):
        (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
        content = json.loads((saved / "config.json").read_text())
        new = change(content)
        text = new if isinstance(new, str) else json.dumps(content)
        (tmp_path / "config.json").write_text(text)
        return tmp_path

    return copy


def test_a_saved_folder_predicts_as_before_without_the_network(saved, predictor, photo, no_network):
    assert {p.name for p in saved.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    expected = predictor(photo)
    for path in (saved, saved / "model.safetensors"):
        loaded = PanopticPredictor.from_pretrained(path)
        assert loaded.classes == predictor.classes
        result = loaded(photo)
        assert (result.segment_map == expected.segment_map).all()
        assert result.segments == expected.segments
    assert PanopticPredictor.from_pretrained(saved, batch_size=3).batch_size == 3


def test_every_other_way_to_use_a_model_takes_the_folder(saved, predictor, tmp_path):
    assert PanopticPredictor.from_checkpoint(saved).classes == predictor.classes
    cfg = load_config(saved / "model.safetensors")
    assert str(saved / "model.safetensors") == cfg.MODEL.WEIGHTS
    files = publish(saved, "again", tmp_path)
    assert files.info.classes == predictor.classes


def test_the_weights_are_plain_safetensors(saved, predictor):
    from safetensors import safe_open

    with safe_open(saved / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        state = predictor.model.state_dict()
        assert set(file.keys()) == set(state)
        assert all(torch.equal(file.get_tensor(name), value) for name, value in state.items())


def test_the_card_has_the_header_that_the_hub_reads(saved):
    text = (saved / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["library_name"] == "panoptic_lovasz"
    assert header["pipeline_tag"] == "image-segmentation"
    assert header["license"] == "cc-by-4.0"
    assert header["metrics"] == ["PQ", "PQ_th"]
    assert "# Meine Formen" in text and 'from_pretrained("Meine Formen")' in text
    card = pytest.importorskip("huggingface_hub").ModelCard(text)
    results = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert results == {"PQ": 41.5, "PQ_th": 40.25}


def test_without_results_and_license_the_card_says_so(predictor, tmp_path):
    predictor.save_pretrained(tmp_path / "plain")
    text = (tmp_path / "plain" / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "unknown"
    assert "metrics" not in header and "model-index" not in header


def test_metrics_are_taken_as_an_evaluation_returns_them(predictor, tmp_path):
    nested = {"panoptic_seg": {"PQ": np.float32(41.5), "PQ_st": float("nan")}, "bbox": {"AP": 3}}
    predictor.save_pretrained(tmp_path / "nested", metrics=nested)
    found = PanopticPredictor.from_pretrained(tmp_path / "nested")  # reads what was written
    assert found.classes == predictor.classes
    info = read_model_info(tmp_path / "nested/model.safetensors")
    assert info.metrics == {"panoptic_seg/PQ": 41.5, "bbox/AP": 3.0}


def test_a_metric_that_is_no_number_is_refused_before_anything_is_written(predictor, tmp_path):
    with pytest.raises(ConfigError, match="the metric 'panoptic_seg/PQ' is 'high', expected a num"):
        predictor.save_pretrained(tmp_path / "high", metrics={"panoptic_seg/PQ": "high"})
    assert not (tmp_path / "high").exists()


def test_weights_in_channels_last_memory_are_saved_as_any_others(tiny_cfg, tmp_path):
    pytest.importorskip("timm", reason="needs timm")
    cfg = tiny_cfg.clone()
    cfg.MODEL.BACKBONE.NAME, cfg.INPUT.FORMAT = "build_timm_fpn_backbone", "RGB"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.CHANNELS_LAST = "tf_efficientnet_lite0", True
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [127.5, 127.5, 127.5]
    saved = PanopticPredictor(cfg)
    saved.save_pretrained(tmp_path / "last")
    loaded = PanopticPredictor.from_pretrained(tmp_path / "last").model.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in saved.model.state_dict().items())


def test_what_is_changed_in_the_config_has_its_effect(changed):
    def change(content):
        content["config"]["INPUT"]["MIN_SIZE_TEST"] = 48
        content["config"]["SOLVER"]["BASE_LR"] = 1e-5

    cfg = PanopticPredictor.from_pretrained(changed(change)).cfg
    assert cfg.INPUT.MIN_SIZE_TEST == 48
    assert cfg.SOLVER.BASE_LR == 1e-5


def test_a_strangers_config_cannot_say_what_is_the_users_to_say(changed):
    def change(content):
        config = content["config"]
        config["MODEL"] |= {"TRUST_WEIGHTS": True, "LOAD_PROPOSALS": True, "WEIGHTS": "/etc/passwd"}
        config["DATASETS"]["PROPOSAL_FILES_TEST"] = ["http://example.org/payload.pkl"]
        config["OUTPUT_DIR"] = "/etc"

    cfg = PanopticPredictor.from_pretrained(changed(change)).cfg
    assert not cfg.MODEL.TRUST_WEIGHTS and not cfg.MODEL.LOAD_PROPOSALS
    assert cfg.MODEL.WEIGHTS.endswith("model.safetensors")
    assert cfg.DATASETS.PROPOSAL_FILES_TEST == () and cfg.OUTPUT_DIR == "./output"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: "{", r"config\.json is not JSON"),
        (lambda c: '{"panoptic_lovasz": "1", "a": 1, "a": 2}', "the key 'a' is there more than"),
        (
            lambda c: '{"panoptic_lovasz": "1", "config": ' + "[" * 900 + "]" * 900 + "}",
            "deep|JSON",
        ),
        (lambda c: c.pop("classes"), r"config\.json has no metadata field 'classes'"),
        (lambda c: c.update(panoptic_lovasz="2"), "expected '1'"),
        (lambda c: c.update(metrics={"PQ": "high"}), "'metrics' is not a JSON object of plain"),
        (lambda c: c.update(config="MODEL"), "is not a config: expected sections"),
        (lambda c: c["config"].update(_BASE_="../a.yaml"), "inherits from another file"),
        (lambda c: c["classes"].update(thing_classes=[3]), "thing_classes must be a list of names"),
    ],
)
def test_a_config_that_is_none_is_named_with_its_fault(changed, change, message):
    def wrapped(content):
        result = change(content)
        return result if isinstance(result, str) and result.startswith("{") else None

    with pytest.raises(CheckpointError, match=message):
        PanopticPredictor.from_pretrained(changed(wrapped))


def test_another_librarys_folder_is_refused(changed):
    folder = changed(lambda content: '{"model_type": "mask2former"}')
    with pytest.raises(ConfigError, match=r"no config\.yaml beside it"):
        PanopticPredictor.from_pretrained(folder)


@pytest.fixture
def hub(monkeypatch):
    """The Hub as ``huggingface_hub`` gives it: a folder, or an error."""
    answers = {}

    def snapshot_download(repo_id, *, revision, allow_patterns):
        answer = answers[repo_id, revision]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    fake = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return answers


def test_a_name_that_is_neither_folder_nor_in_the_zoo_is_one_of_the_hub(saved, predictor, hub):
    hub["someone/shapes", "v1"] = saved
    loaded = PanopticPredictor.from_pretrained("someone/shapes", revision="v1")
    assert loaded.classes == predictor.classes
    hub["someone/none", None] = OSError("404\nlong page")
    with pytest.raises(ConfigError, match=r"or a name of the model zoo.*does not give .*: 404$"):
        PanopticPredictor.from_pretrained("someone/none")


def test_without_huggingface_hub_the_error_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="need the package huggingface_hub"):
        PanopticPredictor.from_pretrained("someone/shapes")


@pytest.mark.parametrize("name", ["nothing_of_that_name", "/no/such/folder", "a/b/c"])
def test_what_cannot_be_a_name_of_the_hub_is_not_looked_up_there(name, hub):
    with pytest.raises(ConfigError, match="or a name of the model zoo"):
        PanopticPredictor.from_pretrained(name)
