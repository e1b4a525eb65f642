import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

if not torch.cuda.is_available():
    # Triton looks at this when it is first imported, by whichever test does that.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_lovasz import add_panoptic_lovasz_config

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget_registrations():
    """Remove the data sets that a test registers."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images; it lies beside the project and is not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data folder {SHARED_DATA}, which is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def slim_cfg():
    """A Panoptic FPN of few channels, with random weights, for 3 thing and 4 stuff classes."""
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.merge_from_file(str(PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"))
    cfg.DATASETS.PANOPTIC = []
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    return cfg


@pytest.fixture(scope="session")
def training_folder(slim_cfg, tmp_path_factory):
    """What a training of the slim network leaves behind, as far as predicting needs it."""
    from detectron2.modeling import build_model

    from panoptic_lovasz.checkpoint import save_classes
    from panoptic_lovasz.data import PanopticClasses
    from panoptic_lovasz.reporting.records import add_result

    folder = tmp_path_factory.mktemp("training")
    cfg = slim_cfg.clone()
    cfg.MODEL.WEIGHTS = "/home/someone/imagenet.pkl"
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.TRUST_WEIGHTS = True
    (folder / "config.yaml").write_text(cfg.dump())
    names = ["disk", "square", "star", "sky", "sea", "sand", "path"]
    categories = [
        {"id": 10 * i, "name": name, "isthing": i < 3, "color": [i, 2 * i, 255 - i]}
        for i, name in enumerate(names)
    ]
    save_classes(folder, PanopticClasses.from_categories(categories))
    state = {"model": build_model(cfg).state_dict(), "iteration": 7, "optimizer": {"lr": 0.1}}
    torch.save(state, folder / "model_best.pth")
    metrics = {"panoptic_seg/PQ": 41.5, "panoptic_seg/SQ": 70.0, "sem_seg/mIoU": 52.25}
    metrics["depth/error"] = 0.5
    metrics |= {"panoptic_seg/PQ-sky": 80.0, "panoptic_seg/PQ_th": float("nan")}
    add_result(folder, 8, metrics)
    add_result(folder, 10, {"panoptic_seg/PQ": 39.0})
    return folder


@pytest.fixture(params=["the same images", "no labels"])
def second_process(request, monkeypatch):
    """As if there was a second process, with the same images or with images without labels.

    Yields the group of both, and what this one's gradients are multiplied by before their mean
    over the processes is taken.
    """
    same = request.param == "the same images"
    both = SimpleNamespace(group_name="both")

    def all_reduce(tensor, group):
        assert group is both
        tensor.mul_(2 if same else 1)

    monkeypatch.setattr(dist, "get_world_size", lambda group=both: 2)
    monkeypatch.setattr(dist.distributed_c10d, "_resolve_process_group", {"both": both}.__getitem__)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    dist.group.WORLD = both
    yield both, 1 if same else 2
    dist.group.WORLD = None
