"""A config that was found with weights attacks, by every way that a model is used.

Each test ends with a look for what the attack would have left: see ``Trap.check``.
"""

import argparse
import importlib.util
import logging
from pathlib import Path

import pytest
from PIL import Image

from panoptic_lovasz import load_config, model_zoo
from panoptic_lovasz.comparison import train as comparison_run
from panoptic_lovasz.comparison.runs import plan_runs
from panoptic_lovasz.config.found import take_allowed
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.model_zoo.__main__ import main as print_zoo
from panoptic_lovasz.tools.evaluate import main as evaluate
from panoptic_lovasz.tools.export import main as export
from panoptic_lovasz.tools.predict import main as demo
from panoptic_lovasz.tools.publish import main as publish

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.attack


@pytest.fixture(params=["published", "directory"])
def model(request, trap):
    return getattr(trap, request.param)()


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((48, 40), 60).convert("RGB").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def train_net():
    spec = importlib.util.spec_from_file_location("train_net", PROJECT / "train_net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "panoptic_lovasz")]
    before = [(logger.propagate, logger.handlers[:]) for logger in loggers]
    yield module
    for logger, (propagate, handlers) in zip(loggers, before, strict=True):
        logger.propagate, logger.handlers[:] = propagate, handlers


@pytest.mark.parametrize("eval_only", [True, False])
def test_train_net_evaluates_and_trains_on_in_the_users_folder(
    trap, train_net, tmp_path, eval_only
):
    opts = ["OUTPUT_DIR", str(tmp_path / "mine"), "DATALOADER.NUM_WORKERS", "0"]
    opts += ["OUTPUT.PLOTS", "False", "OUTPUT.REPORT", "False", "OUTPUT.NUM_PICTURES", "0"]
    arguments = argparse.Namespace(
        config_file=str(trap.published()), opts=opts, num_gpus=0, eval_only=eval_only, resume=False
    )
    train_net.main(arguments)
    assert "Evaluation results for shapes_val" in (tmp_path / "mine/log.txt").read_text()
    assert (tmp_path / "mine/model_final.pth").is_file() is not eval_only


def test_the_demo_predicts(model, photo, tmp_path):
    arguments = ["--checkpoint", str(model), "--input", photo, "--output", str(tmp_path / "out")]
    assert demo(arguments) == 0
    assert (tmp_path / "out/photo.png").is_file()


def test_the_predictor_predicts_and_one_line_says_what_was_left_out(model, photo, caplog):
    predictor = PanopticPredictor.from_checkpoint(model)
    assert predictor(photo).segment_map.shape == (40, 48)
    assert not predictor.cfg.MODEL.TRUST_WEIGHTS and predictor.cfg.OUTPUT_DIR == "./output"
    assert str(model).replace("model", "proposals") != predictor.cfg.MODEL.WEIGHTS
    (line,) = [m for m in caplog.messages if "came with the weights" in m]
    for key in ("OUTPUT_DIR", "MODEL.LOAD_PROPOSALS", "MODEL.TRUST_WEIGHTS", "PANOPTIC[1] (json"):
        assert key in line
    assert "\n" not in line and "MODEL.WEIGHTS" not in line


def test_publishing_passes_nothing_of_it_on(model, trap, tmp_path):
    out = tmp_path / "out"
    assert publish([str(model), "--name", "again", "--output", str(out)]) == 0
    text = (out / "again.yaml").read_text()
    assert str(trap.folder) not in text and "TRUST_WEIGHTS: false" in text


def test_exporting_writes_the_network(model, tmp_path):
    export(["--checkpoint", str(model), "--output", str(tmp_path / "x.ts")])
    assert (tmp_path / "x.ts").is_file()


def test_a_comparison_trains_in_its_own_folders(trap, tmp_path):
    cfg = load_config(trap.published(), ["MODEL.DEVICE", "cpu"])
    (run,) = plan_runs(
        cfg, {"ce": {"MODEL.SEM_SEG_HEAD.LOSS.NAME": "CrossEntropyLoss"}}, [1], tmp_path / "compare"
    )
    run.cfg.DATALOADER.NUM_WORKERS, run.cfg.OUTPUT.NUM_PICTURES = 0, 0
    run.cfg.OUTPUT.PLOTS = run.cfg.OUTPUT.REPORT = False
    run.folder.mkdir(parents=True)
    (run.folder / "run.yaml").write_text(run.cfg.dump())
    assert comparison_run.main([str(run.folder / "run.yaml")]) == 0
    assert (run.folder / "result.json").is_file()


def test_the_model_zoo_builds_and_lists_it(trap, photo, capsys):
    zoo = trap.zoo()
    cfg = model_zoo.get_config("model", trained=True, zoo=zoo)
    assert not cfg.MODEL.LOAD_PROPOSALS and not cfg.MODEL.TRUST_WEIGHTS
    assert cfg.DATASETS.PROPOSAL_FILES_TEST == ()
    model_zoo.get("model", zoo=zoo, device="cpu")
    PanopticPredictor.from_checkpoint("model", zoo=zoo)(photo)
    assert print_zoo(["--zoo", str(zoo)]) == 0
    assert "model" in capsys.readouterr().out


def test_evaluating_pickles_instead_of_a_submission_is_one_line(trap, capsys):
    assert evaluate([str(trap.pickle), str(trap.published())]) == 1
    assert "error: " in capsys.readouterr().err


def data_sets(cfg, **fields):
    """What is taken of a config with one entry of DATASETS.PANOPTIC."""
    paths = {"json": "a/x.json", "images": "a/images", "panoptic": "a/ids"}
    entry = {"name": "own_{split}", **paths, "splits": ["train"], **fields}
    written = {"DATASETS": {"PANOPTIC": [entry], "TEST": [fields.get("name", "own_train")]}}
    return take_allowed(written, cfg)


def test_an_entry_within_the_root_is_taken(slim_cfg):
    taken, left_out = data_sets(slim_cfg, json="./a/{split}/…/x.json")
    assert len(taken["DATASETS.PANOPTIC"]) == 1 and not left_out


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "..", "a/b", "a\nb", 3])
def test_the_name_of_a_data_set_leads_nowhere(slim_cfg, name):
    taken, left_out = data_sets(slim_cfg, name=name)
    assert taken == {"DATASETS.PANOPTIC": []}
    assert left_out.keys() == {"DATASETS.PANOPTIC[0]", "DATASETS.TEST"}


@pytest.mark.parametrize(
    "path",
    ["/etc/x.json", "../x.json", "a/../../x", "~/x", "https://h/x", "C:/x", "..\\x", "\\x", "x\n"],
)
@pytest.mark.parametrize("field", ["json", "images", "panoptic"])
def test_a_path_that_leads_out_of_the_root_is_left_out(slim_cfg, path, field):
    taken, left_out = data_sets(slim_cfg, **{field: path})
    assert taken["DATASETS.PANOPTIC"] == []
    assert left_out["DATASETS.PANOPTIC[0]"].startswith(f"{field}: not a relative path")


def test_splits_cannot_be_put_together_to_a_path_that_leads_out(slim_cfg):
    taken, _ = data_sets(slim_cfg, json="{split}{split}/x.json", splits=["."])
    assert taken["DATASETS.PANOPTIC"] == []


def test_what_the_user_says_still_counts(trap, tmp_path):
    opts = ["OUTPUT_DIR", str(tmp_path), "MODEL.TRUST_WEIGHTS", True]
    cfg = load_config(trap.published(), opts)
    assert str(tmp_path) == cfg.OUTPUT_DIR and cfg.MODEL.TRUST_WEIGHTS


def test_proposals_in_a_config_of_the_users_own_need_trust_as_well(trap):
    file = trap.directory() / "config.yaml"
    with pytest.raises(ConfigError, match=r"LOAD_PROPOSALS is True.*set MODEL\.TRUST_WEIGHTS True"):
        load_config(file, ["MODEL.TRUST_WEIGHTS", False, "DATASETS.PANOPTIC", []])
