import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from panoptic_lovasz import load_config
from panoptic_lovasz.checkpoint import find_checkpoint, read_model_info
from panoptic_lovasz.data import register_coco_panoptic
from panoptic_lovasz.errors import CheckpointError, ConfigError, DatasetError
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.model_zoo import publish
from panoptic_lovasz.model_zoo.model_card import hub_card, write_model_card
from panoptic_lovasz.model_zoo.publishing import read_metrics
from panoptic_lovasz.reporting.records import add_result
from panoptic_lovasz.tools.predict import main as demo
from panoptic_lovasz.tools.publish import main

PHOTO = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def files(training_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return publish(training_folder / "model_best.pth", "slim", folder, license="CC0-1.0")


@pytest.fixture(scope="module")
def weights(training_folder):
    return torch.load(training_folder / "model_best.pth", weights_only=True)["model"]


def tamper(files, folder, **fields):
    """Write a copy of the published file with other metadata; a field that is None is left out."""
    with safe_open(files.safetensors, "pt") as opened:
        metadata = {**opened.metadata(), **fields}
    target = folder / "model.safetensors"
    metadata = {key: value for key, value in metadata.items() if value is not None}
    save_file(load_file(files.safetensors), target, metadata)
    return target


def test_one_published_file_alone_predicts_what_the_training_folder_does(
    files, training_folder, tmp_path
):
    alone = tmp_path / files.safetensors.name
    alone.write_bytes(files.safetensors.read_bytes())
    published = PanopticPredictor.from_checkpoint(alone)
    trained = PanopticPredictor.from_checkpoint(training_folder / "model_best.pth")
    a, b = published(PHOTO), trained(PHOTO)
    assert a.segments == b.segments
    np.testing.assert_array_equal(a.segment_map, b.segment_map)
    assert published.classes == trained.classes
    assert published.classes.thing_classes == ("disk", "square", "star")
    assert published.classes.stuff_colors[1] == (3, 6, 252)


def test_the_optimizer_stays_behind_and_the_weights_are_the_same(files, weights):
    published = load_file(files.safetensors)
    assert published.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(published[name], tensor)


def test_names_end_in_the_hash_of_the_content(files):
    for file in (files.safetensors, *files.stock):
        start = re.fullmatch(r"slim_([0-9a-f]{8})\.(safetensors|pth|pkl)", file.name)[1]
        assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(start)


def test_publishing_again_gives_the_same_bytes(files, training_folder, tmp_path):
    again = publish(training_folder / "model_best.pth", "slim", tmp_path, license="CC0-1.0")
    assert (again.safetensors.name, again.config.name) == (files.safetensors.name, "slim.yaml")
    assert [f.name for f in again.stock] == [f.name for f in files.stock]


def test_the_file_says_where_it_comes_from(files):
    info = read_model_info(files.safetensors)
    assert info == files.info
    assert (info.name, info.license, info.dataset) == ("slim", "CC0-1.0", "shapes_train")
    assert info.versions["torch"] == str(torch.__version__)
    assert info.versions.keys() == {"torch", "detectron2", "panoptic_lovasz"}
    # of the evaluation of this checkpoint, not the last one; neither losses nor what is not finite
    assert info.metrics == {
        "panoptic_seg/PQ": 41.5,
        "panoptic_seg/SQ": 70.0,
        "panoptic_seg/PQ-sky": 80.0,
        "sem_seg/mIoU": 52.25,
        "depth/error": 0.5,  # of an evaluator that this project does not know
    }


def test_the_config_holds_no_path_of_the_machine_and_trusts_nothing(files, training_folder):
    text = files.config.read_text()
    assert "/home/someone" not in text and str(training_folder) not in text
    assert "TRUST_WEIGHTS: false" in text
    cfg = load_config(files.safetensors)
    assert str(files.safetensors) == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert load_config(files.config, ["MODEL.WEIGHTS", cfg.MODEL.WEIGHTS]) == cfg


def test_the_device_is_for_the_machine_to_say(files, tmp_path, caplog):
    assert "DEVICE: cuda" in files.config.read_text()  # it was trained on the CPU
    text = files.config.read_text().replace("DEVICE: cuda", "DEVICE: cuda:7")
    cfg = load_config(tamper(files, tmp_path, config=text))
    assert cfg.MODEL.DEVICE == "cuda"
    assert not [m for m in caplog.messages if "came with the weights" in m]


def _panoptic_json(folder, *things):
    categories = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(things, start=1)]
    categories.append({"id": 99, "name": "sky", "isthing": 0})
    content = {"images": [], "annotations": [], "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return "panoptic.json", "images", "panoptic"


@pytest.mark.parametrize("clash", ["name", "place", "no thing"])
def test_data_of_the_same_name_with_other_classes_does_not_keep_a_model_from_its_use(
    files, tmp_path, monkeypatch, caplog, clash
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    paths = _panoptic_json(tmp_path, *([] if clash == "no thing" else ["cat"]))
    if clash == "name":
        register_coco_panoptic("shapes_train", *paths)
        paths = ("theirs.json", *paths[1:])
    entry = dict(zip(("name", "json", "images", "panoptic"), ("shapes_train", *paths), strict=True))
    config = yaml.safe_load(files.info.config)
    config["DATASETS"]["PANOPTIC"] = [entry]
    predictor = PanopticPredictor.from_checkpoint(
        tamper(files, tmp_path, config=yaml.safe_dump(config))
    )
    assert predictor.classes == files.info.classes
    assert predictor.cfg.DATASETS.PANOPTIC == [] and predictor.cfg.DATASETS.TRAIN == ()
    assert predictor(PHOTO).segment_map.shape == PHOTO.shape[:2]
    (line,) = [m for m in caplog.messages if "a data set here has the name" in m]
    assert "DATASETS.TRAIN" in line and predictor.cfg.MODEL.WEIGHTS in line
    assert "shapes_train" in line.partition("cannot be read: ")[2] or clash == "place"
    weights = predictor.cfg.MODEL.WEIGHTS
    with pytest.raises((ConfigError, DatasetError)):  # what the user sets is not left out
        load_config(weights, ["MODEL.ROI_HEADS.NUM_CLASSES", 9])
    again = publish(weights, "again", tmp_path / "again", stock_formats=False).info
    assert yaml.safe_load(again.config)["DATASETS"]["PANOPTIC"] == [entry]
    assert again.dataset == files.info.dataset


def test_data_that_the_user_names_decides_the_classes_of_a_training_from_a_model(
    files, tmp_path, monkeypatch
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_coco_panoptic("mine", *_panoptic_json(tmp_path, "cat", "dog"))
    mine = ["DATASETS.TRAIN", ("mine",), "DATASETS.TEST", ("mine",)]
    cfg = load_config(files.safetensors, mine)
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (2, 2)
    with pytest.raises(ConfigError, match="NUM_CLASSES is 3, but the data set 'mine' has 2"):
        load_config(files.safetensors, [*mine, "MODEL.ROI_HEADS.NUM_CLASSES", 3])


@pytest.mark.parametrize("kind", [0, 1])
def test_stock_detectron2_loads_its_own_formats(files, slim_cfg, weights, kind):
    cfg = slim_cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(files.stock[kind]))
    loaded = model.state_dict()
    assert loaded.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(loaded[name], tensor)


def test_the_pickle_is_that_of_detectron2s_zoo_arrays_and_an_author(files):
    content = pickle.loads(files.stock[1].read_bytes())
    assert content.keys() == {"model", "__author__"}
    assert all(isinstance(a, np.ndarray) for a in content["model"].values())


def test_every_published_weights_file_works_in_its_folder(files, training_folder, tmp_path):
    (tmp_path / "config.yaml").write_text(files.config.read_text())
    for file in files.stock:
        (tmp_path / file.name).write_bytes(file.read_bytes())
        PanopticPredictor.from_checkpoint(tmp_path / file.name)


def test_a_published_model_that_is_published_again_keeps_what_it_says_of_itself(files, tmp_path):
    again = publish(files.safetensors, "again", tmp_path, half=True, stock_formats=False).info
    assert (again.metrics, again.license) == (files.info.metrics, "CC0-1.0")
    assert again.dataset == "shapes_train"
    other = publish(files.safetensors, "other", tmp_path, license="MIT", stock_formats=False).info
    assert other.license == "MIT"


def test_a_published_model_whose_config_names_no_data_or_a_place_outside_is_published_again(
    files, tmp_path
):
    config = yaml.safe_load(files.info.config)
    outside = dict.fromkeys(("json", "images", "panoptic"), "/somewhere/else")
    config["DATASETS"] = {"PANOPTIC": [{"name": "theirs", **outside}]}
    sources = [tamper(files, tmp_path, config=yaml.safe_dump(config))]
    del config["DATASETS"]
    (tmp_path / "none").mkdir()
    sources.append(tamper(files, tmp_path / "none", config=yaml.safe_dump(config)))
    for source in sources:
        again = publish(source, "again", tmp_path / "again", stock_formats=False).info
        assert yaml.safe_load(again.config)["DATASETS"]["PANOPTIC"] == []


def card(files, tmp_path, **replaced):
    """The card of what was published with other values in its config, and its Hub tags."""
    config = files.info.config
    for before, after in replaced.items():
        before = before.replace("__", ": ")
        assert before in config
        config = config.replace(before, after)
    info = dataclasses.replace(files.info, config=config)
    write_model_card(tmp_path / "card.md", files._replace(info=info), None)
    return (tmp_path / "card.md").read_text(), "lovasz-softmax" in hub_card(info)


def test_the_card_says_with_which_loss_and_weights_it_was_trained(files, tmp_path):
    text, is_lovasz = card(files, tmp_path)
    assert "trained with cross-entropy and the Lovász-Softmax loss," in text and is_lovasz
    assert re.search(r"\| weight of the Lovász-Softmax loss +\| 1\.0", text)
    text, is_lovasz = card(
        files, tmp_path, NAME__CrossEntropyLovaszLoss="NAME: CrossEntropyDiceLoss"
    )
    assert "trained with cross-entropy and the soft Dice loss," in text and not is_lovasz
    text, is_lovasz = card(files, tmp_path, LOVASZ_WEIGHT__1="LOVASZ_WEIGHT: 0")
    assert "trained with cross-entropy, for" in text and not is_lovasz
    text, is_lovasz = card(files, tmp_path, NAME__LovaszSemSegFPNHead="NAME: SemSegFPNHead")
    assert "trained with cross-entropy, for" in text and not is_lovasz
    assert "that of SemSegFPNHead" in text
    text, is_lovasz = card(files, tmp_path, NAME__CrossEntropyLovaszLoss="NAME: MyLoss")
    assert "Panoptic FPN for [Detectron2]" in text and "MyLoss" in text and not is_lovasz


def test_the_card_claims_detectron2s_parameters_but_for_a_backbone_of_timm(files, tmp_path):
    assert "those of its Panoptic FPN.\n" in card(files, tmp_path)[0]
    timm = {"NAME__build_resnet_fpn_backbone": "NAME: build_timm_fpn_backbone"}
    assert "Panoptic FPN, but for the backbone, which is timm's" in card(files, tmp_path, **timm)[0]


def test_metrics_of_the_final_checkpoint_are_those_after_the_last_iteration(tmp_path):
    add_result(tmp_path, 20, {"panoptic_seg/PQ": 3.0, "depth/error": 0.5})
    assert read_metrics(tmp_path, 19) == {"panoptic_seg/PQ": 3, "depth/error": 0.5}
    assert read_metrics(tmp_path, 18) == read_metrics(tmp_path, None) == {}
    assert read_metrics(tmp_path / "none", 19) == {}


FIELDS = ("name", "config", "classes", "metrics", "dataset", "license", "versions")


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(files, tmp_path, field):
    with pytest.raises(CheckpointError, match=f"has no metadata field '{field}'"):
        PanopticPredictor.from_checkpoint(tamper(files, tmp_path, **{field: None}))


@pytest.mark.parametrize("field", FIELDS)
def test_an_oversized_field_is_named(files, tmp_path, field):
    with pytest.raises(CheckpointError, match=f"field '{field}' has 1048577 characters"):
        find_checkpoint(tamper(files, tmp_path, **{field: "x" * (2**20 + 1)}))


CLASSES = {
    "thing_classes": [],
    "thing_colors": [],
    "thing_dataset_ids": [],
    "stuff_classes": ["things"],
    "stuff_colors": [[0, 0, 0]],
    "stuff_dataset_ids": [],
    "thing_segment_ids": [],
    "stuff_segment_ids": [],
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("panoptic_lovasz", "2", "field 'panoptic_lovasz' is '2', expected '1'"),
        ("config", "MODEL: [", "'config' is not YAML"),
        ("config", "MODEL: !!python/object/apply:os.mkdir [ran]", "'config' is not YAML"),
        ("config", "- 1", "'config' is not a config"),
        ("config", "MODEL: 3", "'config' is not a config"),
        ("config", "_BASE_: /etc/x.yaml\nMODEL: {}", "'config' inherits from another file"),
        ("config", "MODEL: {RESNET: 3}", "Non-existent key: MODEL.RESNET"),
        ("config", "MODEL: {ROI_HEADS: {NUM_CLASSES: x}}", r"NUM_CLASSES is x of the type str"),
        ("classes", "{", "'classes' is not JSON"),
        ("classes", "[" * 100_000, "'classes' is not JSON"),
        ("classes", "[1]", "'classes' does not hold .* found list"),
        ("classes", {"extra": []}, "'classes' does not hold .* found .*'extra'"),
        ("classes", {"thing_classes": [3]}, "thing_classes must be a list of names"),
        ("classes", {"thing_colors": [[0, 0, 256]]}, "thing_colors must be a list of colors"),
        ("classes", {"thing_classes": ["a"]}, "0 thing_colors for 1 thing_classes"),
        ("classes", {"stuff_colors": [], "stuff_classes": []}, "stuff_classes must be 'things'"),
        ("classes", {}, "0 thing and 1 semantic classes .* are \\(3, 5\\)"),
        ("metrics", "no", "'metrics' is not JSON"),
        ("metrics", '{"PQ": "<b>"}', "'metrics' is not a JSON object of plain values"),
        ("versions", "[]", "'versions' is not a JSON object of plain values"),
    ],
)
def test_a_field_that_was_tampered_with_is_refused(
    files, tmp_path, monkeypatch, field, value, message
):
    if isinstance(value, dict):
        value = json.dumps({**CLASSES, **value})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        PanopticPredictor.from_checkpoint(tamper(files, tmp_path, **{field: value}))
    assert not (tmp_path / "ran").exists()


def test_a_changed_file_does_not_pass_for_the_one_its_name_stands_for(files, tmp_path):
    content = bytearray(files.safetensors.read_bytes())
    content[-1] ^= 1
    (tmp_path / files.safetensors.name).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or was changed: its name says"):
        PanopticPredictor.from_checkpoint(tmp_path / files.safetensors.name)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(content[:1000])
    with pytest.raises(CheckpointError, match=r"torn\.safetensors cannot be read"):
        PanopticPredictor.from_checkpoint(torn)


def test_safetensors_that_are_no_published_model_need_a_config_beside_them(files, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(files.safetensors), plain)
    with pytest.raises(ConfigError, match=r"no config\.yaml beside it"):
        find_checkpoint(plain)
    with pytest.raises(CheckpointError, match="no config in its metadata"):
        load_config(plain)
    (tmp_path / "config.yaml").write_text(files.config.read_text())
    PanopticPredictor.from_checkpoint(plain)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_config_that_comes_with_the_weights_cannot_make_them_trusted(files, tmp_path):
    text = files.config.read_text().replace("TRUST_WEIGHTS: false", "TRUST_WEIGHTS: true")
    assert "TRUST_WEIGHTS: true" in text
    (tmp_path / "config.yaml").write_text(text)
    torch.save({"model": Payload(tmp_path / "ran")}, tmp_path / "model_final.pth")
    with pytest.raises(CheckpointError, match="hold more than tensors"):
        PanopticPredictor.from_checkpoint(tmp_path)
    assert load_config(tamper(files, tmp_path, config=text)).MODEL.TRUST_WEIGHTS is False
    assert not (tmp_path / "ran").exists()


def test_unknown_classes_are_an_error_and_no_file_is_written(training_folder, tmp_path):
    for name in ("config.yaml", "model_best.pth"):
        (tmp_path / name).write_bytes((training_folder / name).read_bytes())
    with pytest.raises(ConfigError, match=r"the classes are unknown: no classes\.json"):
        publish(tmp_path / "model_best.pth", "slim", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_the_zoo_would_not_find_is_refused(training_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"'slim\.yaml' must not end in '\.yaml'"):
        publish(training_folder / "model_best.pth", "slim.yaml", tmp_path)


@pytest.mark.parametrize("name", ["", "../slim", "a b", ".hidden", "ä"])
def test_a_name_that_is_no_file_name_is_refused(training_folder, tmp_path, name):
    with pytest.raises(ConfigError, match="must start with a letter or digit"):
        publish(training_folder / "model_best.pth", name, tmp_path)


def test_the_command_writes_a_card_with_the_results_and_a_picture(
    training_folder, tmp_path, capsys
):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    arguments = [training_folder / "model_best.pth", "--name", "slim", "--output", out]
    options = ["--picture", tmp_path / "photo.png", "--license", "CC0-1.0"]
    options += ["--credit", "Photo: [me](https://example.org)."]
    assert main([*map(str, arguments + options)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed[-6:]) == sorted(str(f) for f in out.iterdir())
    card = (out / "slim.md").read_text()
    for line in (
        "| PQ | SQ | mIoU, semantic head |",
        "| 41.5 | 70.0 | 52.2 |",
        "| sky | 80.0 |",
        "| depth/error | 0.5 |",
        "- things: disk, square, star",
        "![A prediction](slim.jpg)\n\nPhoto: [me](https://example.org).\n",
    ):
        assert re.sub(" +", " ", line) in re.sub(" +", " ", card)
    for file in out.iterdir():
        assert file.name in card or file.name == "slim.md"
        assert ".tmp" not in file.name
    assert Image.open(out / "slim.jpg").size[0] >= 90
    published = next(out.glob("*.safetensors"))
    pictures = tmp_path / "pictures"
    arguments = ["--checkpoint", published, "--input", tmp_path / "photo.png", "--output", pictures]
    assert demo([*map(str, arguments)]) == 0
    assert (pictures / "photo.png").is_file()


def test_half_precision_takes_half_the_bytes_and_loads_in_single_precision(
    files, training_folder, tmp_path
):
    arguments = ["--name", "slim", "--output", str(tmp_path), "--half", "--safetensors-only"]
    assert main([str(training_folder / "model_best.pth"), *arguments]) == 0
    assert {f.suffix for f in tmp_path.iterdir()} == {".safetensors", ".yaml", ".md"}
    assert ".pth" not in (tmp_path / "slim.md").read_text()
    halved = next(tmp_path.glob("*.safetensors"))
    assert {t.dtype for t in load_file(halved).values()} <= {torch.float16, torch.int64}
    assert halved.stat().st_size < 0.6 * files.safetensors.stat().st_size
    a, b = (PanopticPredictor.from_checkpoint(f).model for f in (halved, files.safetensors))
    for rounded, exact in zip(a.parameters(), b.parameters(), strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=2**-11, atol=2**-25)


def test_a_weight_that_half_precision_cannot_hold_is_named(folder_copy, tmp_path):
    weights = torch.load(folder_copy / "model_best.pth", weights_only=True)
    weights["model"]["sem_seg_head.predictor.bias"][0] = 1e5
    torch.save(weights, folder_copy / "model_best.pth")
    with pytest.raises(CheckpointError, match=r"sem_seg_head.predictor.bias has the value 100000"):
        publish(folder_copy / "model_best.pth", "slim", tmp_path / "out", half=True)
    assert not (tmp_path / "out").exists()


def test_the_command_without_a_picture_or_with_a_missing_one(training_folder, tmp_path, capsys):
    arguments = [str(training_folder / "model_best.pth"), "--name", "x", "--output", str(tmp_path)]
    assert main([*arguments, "--picture", str(tmp_path / "none.jpg")]) == 1
    assert "none.jpg does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(arguments) == 0
    assert "![" not in (tmp_path / "x.md").read_text()


def test_weights_that_do_not_belong_to_the_config_are_not_published(
    training_folder, tmp_path, capsys
):
    for name in ("config.yaml", "classes.json"):
        (tmp_path / name).write_bytes((training_folder / name).read_bytes())
    torch.save({"model": {"other": torch.ones(3)}}, tmp_path / "model_best.pth")
    arguments = [str(tmp_path / "model_best.pth"), "--name", "x", "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "do not belong to the network" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder_copy(training_folder, tmp_path):
    """A copy of what training left, to spoil."""
    return shutil.copytree(training_folder, tmp_path / "training")


def test_a_checkpoint_that_was_not_evaluated_is_published_with_a_warning_and_a_card_that_says_so(
    folder_copy, tmp_path, caplog
):
    (folder_copy / "results.csv").unlink()
    weights = folder_copy / "model_best.pth"
    assert main([str(weights), "--name", "x", "--output", str(tmp_path / "out")]) == 0
    assert f"results.csv has no evaluation of {weights}: none is published" in caplog.text
    assert "This checkpoint was not evaluated in its training." in (
        (tmp_path / "out/x.md").read_text()
    )


@pytest.mark.parametrize("error", [FileNotFoundError, AssertionError])
def test_where_the_test_set_is_not_here_the_card_has_no_picture(
    folder_copy, tmp_path, capsys, error
):
    def load():  # Detectron2's COCO cannot be opened, its Cityscapes asserts that it is there
        raise error("not here")

    cfg = load_config(folder_copy / "config.yaml", ["DATASETS.TEST", ("away_val",)])
    (folder_copy / "config.yaml").write_text(cfg.dump())
    out = tmp_path / "out"
    DatasetCatalog.register("away_val", load)
    assert main([str(folder_copy / "model_best.pth"), "--name", "x", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "no picture for the card; --picture gives one" in printed
    assert f"data set 'away_val' cannot be loaded: {error.__name__}: not here" in printed
    assert "![" not in (out / "x.md").read_text()


def test_classes_that_neither_the_folder_nor_a_data_set_tells_are_an_error(folder_copy, tmp_path):
    (folder_copy / "classes.json").unlink()
    cfg = load_config(folder_copy / "config.yaml", ["DATASETS.TRAIN", ()])
    (folder_copy / "config.yaml").write_text(cfg.dump())
    with pytest.raises(ConfigError, match=r"no classes\.json, and DATASETS\.TRAIN is empty"):
        publish(folder_copy / "model_best.pth", "slim", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "are a list, expected a dict"),
        ({"model": 3}, "are a int, expected a dict"),
        ({"model": {}}, "have no tensors"),
        ({"model": {"a": "text"}}, "a is a str, expected a tensor"),
    ],
)
def test_weights_of_another_kind_are_refused(folder_copy, tmp_path, content, message):
    torch.save(content, folder_copy / "model_best.pth")
    with pytest.raises(CheckpointError, match=rf"model_best\.pth.* {message}"):
        publish(folder_copy / "model_best.pth", "slim", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_classes_beside_the_weights_that_cannot_be_are_an_error_that_names_the_file(folder_copy):
    names, ids = [str(n) for n in range(255)], [*range(255)]
    many = {
        "stuff_classes": ["things", *names],
        "stuff_colors": [[0, 0, 0]] * 256,
        "stuff_dataset_ids": ids,
        "stuff_segment_ids": ids,
    }
    (folder_copy / "classes.json").write_text(json.dumps({**CLASSES, **many}))
    with pytest.raises(
        CheckpointError, match=r"classes\.json does not .* 255 stuff categories are"
    ):
        find_checkpoint(folder_copy / "model_best.pth")


def test_a_model_on_a_timm_backbone_is_published_whole(training_folder, slim_cfg, tmp_path):
    pytest.importorskip("timm", reason="needs timm")
    folder = tmp_path / "training"
    shutil.copytree(training_folder, folder)
    cfg = slim_cfg.clone()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [127.5, 127.5, 127.5]
    cfg.MODEL.WEIGHTS = "imagenet://tf_efficientnet_lite0"
    (folder / "config.yaml").write_text(cfg.dump())
    state = build_model(cfg).state_dict()
    torch.save({"model": state}, folder / "model_best.pth")
    published = publish(folder / "model_best.pth", "timm", tmp_path / "zoo", license="CC0-1.0")
    predictor = PanopticPredictor.from_checkpoint(published.safetensors)
    assert predictor.cfg.MODEL.TIMM.NAME == "tf_efficientnet_lite0"
    assert predictor.cfg.INPUT.FORMAT == "RGB"
    loaded = predictor.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert predictor(PHOTO).segment_map.shape == PHOTO.shape[:2]
