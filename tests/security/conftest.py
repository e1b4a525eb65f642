"""Models whose weights are sound and whose configs, found with them, attack."""

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests" / "checkpoint"))

from payloads import Call  # noqa: E402

from panoptic_lovasz import model_zoo  # noqa: E402
from panoptic_lovasz.checkpoint import save_classes  # noqa: E402
from panoptic_lovasz.checkpoint.published import read_model_info  # noqa: E402
from panoptic_lovasz.data import make_shapes  # noqa: E402


@pytest.fixture(scope="session")
def sound(slim_cfg, tmp_path_factory):
    """A model for the generated shapes, and the data: what an attacker starts from.

    The folder has datasets/ and model/, the latter with config.yaml, model_final.pth, classes.json.
    """
    from detectron2.modeling import build_model

    from panoptic_lovasz.data import PanopticClasses
    from panoptic_lovasz.data.categories import read_categories

    root = tmp_path_factory.mktemp("sound")
    data = make_shapes(root / "datasets/shapes", num_train=2, num_val=1, size=64, progress=False)
    classes = PanopticClasses.from_categories(read_categories(data / "annotations/train.json"))
    cfg = slim_cfg.clone()
    cfg.merge_from_file(str(PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes.num_things
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes.num_semantic
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = 2, 1, 0
    folder = root / "model"
    folder.mkdir()
    (folder / "config.yaml").write_text(cfg.dump())
    save_classes(folder, classes)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    return root


class Trap:
    """A place where an attack leaves its marks, and the hostile config."""

    def __init__(self, folder, sound):
        self.folder, self.sound = folder, sound
        self.marker, self.output = folder / "ran", folder / "marked_output"
        self.pickle = folder / "proposals.pkl"
        self.pickle.write_bytes(pickle.dumps(Call(os.system, f"touch {self.marker}")))
        self.config = yaml.safe_load((sound / "model/config.yaml").read_text())
        self.config["OUTPUT_DIR"] = str(self.output)
        self.config["MODEL"] |= {
            "LOAD_PROPOSALS": True,
            "TRUST_WEIGHTS": True,
            "WEIGHTS": str(self.pickle),
        }
        absolute = sound / "datasets/shapes"
        paths = {
            "json": f"{absolute}/annotations/train.json",
            "images": f"{absolute}/train",
            "panoptic": f"{absolute}/panoptic_train",
        }
        self.config["DATASETS"] |= {
            "PROPOSAL_FILES_TRAIN": [str(self.pickle)],
            "PROPOSAL_FILES_TEST": [str(self.pickle)],
            "PANOPTIC": [*self.config["DATASETS"]["PANOPTIC"], {"name": "stolen", **paths}],
        }
        self.config["DATALOADER"]["NUM_WORKERS"] = 1000

    def published(self):
        """The config in the metadata of a published file."""
        files = model_zoo.publish(self.sound / "model", "model", self.folder / "published")
        metadata = read_model_info(files.safetensors).to_metadata()
        metadata["config"] = yaml.safe_dump(self.config)
        file = self.folder / "model.safetensors"
        state = torch.load(self.sound / "model/model_final.pth", weights_only=True)["model"]
        save_file(state, file, metadata)
        return file

    def directory(self):
        """The config beside a checkpoint."""
        folder = self.folder / "training"
        folder.mkdir()
        for file in (self.sound / "model").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "config.yaml").write_text(yaml.safe_dump(self.config))
        return folder

    def zoo(self):
        """The config in a zoo, as YAML and in the metadata; the model's name is "model"."""
        file = self.published()
        info = read_model_info(file)
        config = self.folder / "model.yaml"
        config.write_text(info.config)
        files = model_zoo.PublishedFiles(info, file, config)
        model_zoo.add_to_index(self.folder / "index.json", files)
        return self.folder / "index.json"

    def check(self):
        """Fail if the attack left a mark."""
        assert not self.marker.exists(), "the pickle ran"
        assert not self.output.exists(), "the output folder was obeyed"
        assert "stolen" not in DatasetCatalog.list(), "an absolute path was read"


@pytest.fixture
def trap(sound, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(sound / "datasets"))
    monkeypatch.delenv("PANOPTIC_LOVASZ_ZOO", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap").mkdir()
    trap = Trap(tmp_path / "trap", sound)
    yield trap
    trap.check()
