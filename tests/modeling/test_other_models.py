"""A training step of each model in configs/ other than Panoptic FPN, with few channels."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR

from panoptic_lovasz import Trainer, load_config
from panoptic_lovasz.data import make_shapes
from panoptic_lovasz.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SLIM = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 50]
SLIM += ["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]
SLIM += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.NORM", "BN"]
SLIM += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "INPUT.CROP.SIZE", (64, 96)]
FPN = ["MODEL.FPN.OUT_CHANNELS", 16]
POINTS = [*FPN, "MODEL.POINT_HEAD.FC_DIM", 16, "MODEL.POINT_HEAD.TRAIN_NUM_POINTS", 32]
DEEPLAB = ["MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 32]
PANOPTIC_DEEPLAB = [*DEEPLAB, "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS", 32]
PANOPTIC_DEEPLAB += ["MODEL.INS_EMBED_HEAD.NORM", "BN", "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS", 32]
PANOPTIC_DEEPLAB += ["MODEL.INS_EMBED_HEAD.CONVS_DIM", 32]

FUSED = {"loss_sem_seg_ce", "loss_sem_seg_lovasz"}
BESIDE = {"loss_sem_seg", "loss_sem_seg_lovasz"}
SEMANTIC = "Cityscapes-SemanticSegmentation"
PANOPTIC_CONFIG = "Cityscapes-PanopticSegmentation/panoptic_deeplab_lovasz_R_52.yaml"
MODELS = [
    (f"{SEMANTIC}/semantic_lovasz_R_50_FPN.yaml", FPN, FUSED),
    (f"{SEMANTIC}/pointrend_lovasz_R_101_FPN.yaml", POINTS, FUSED | {"loss_sem_seg_point"}),
    (f"{SEMANTIC}/deeplab_v3_plus_lovasz_R_103.yaml", DEEPLAB, BESIDE),
    (PANOPTIC_CONFIG, PANOPTIC_DEEPLAB, BESIDE | {"loss_center", "loss_offset"}),
]


def image(num_classes):
    size = 64, 96
    center = {"center": torch.rand(size), "offset": torch.randn(2, *size)}
    weights = {f"{name}_weights": torch.ones(size) for name in ("sem_seg", "center", "offset")}
    return {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        "sem_seg": torch.randint(0, num_classes, size),
        **center,
        **weights,
    }


@pytest.mark.parametrize(("config", "slim", "names"), MODELS)
def test_a_training_step_of_each_other_model(config, slim, names):
    cfg = load_config(CONFIGS / config, [*SLIM, *slim])
    model = build_model(cfg).train()
    losses = model([image(19), image(19)])
    assert losses.keys() == names
    before = model.backbone.state_dict()
    before = {name: value.clone() for name, value in before.items() if "conv1.weight" in name}
    sum(losses.values()).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = model.backbone.state_dict()
    assert all(not torch.equal(after[name], value) for name, value in before.items())


OWN_DATA = """\
_BASE_: "{base}"
DATASETS:
  PANOPTIC: [{{name: "other_{{split}}", json: "shapes/annotations/{{split}}.json",
    images: "shapes/{{split}}", panoptic: "shapes/panoptic_{{split}}", splits: [train, val]}}]
  TRAIN: ["other_train"]
  TEST: ["other_val"]
"""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_shapes(root / "shapes", num_train=4, num_val=2, size=64, progress=False)
    return root


@pytest.fixture
def own_config(datasets, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets))

    def write(base):
        file = tmp_path / "own.yaml"
        file.write_text(OWN_DATA.format(base=CONFIGS / base))
        return file

    return write


@pytest.mark.parametrize(
    ("base", "slim"),
    [("quick_schedules/semantic_lovasz_shapes.yaml", []), *(model[:2] for model in MODELS[1:3])],
)
def test_a_semantic_segmentor_is_trained_and_evaluated_on_panoptic_data(
    own_config, tmp_path, base, slim
):
    quick = ["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "INPUT.MIN_SIZE_TRAIN", (64,)]
    quick += ["INPUT.MIN_SIZE_TEST", 64, "OUTPUT.PLOTS", False]
    quick += ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", (64, 64)]
    quick += ["OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", 0, "OUTPUT.REPORT", False]
    cfg = load_config(own_config(base), [*(SLIM if slim else []), *slim, *quick])
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6
    trainer = Trainer(cfg)
    if "deeplab" in base:
        assert isinstance(trainer.scheduler, WarmupPolyLR)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results
    assert results.keys() == {"sem_seg"}
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
    assert (tmp_path / "model_best.pth").is_file()


def test_panoptic_deeplab_is_refused_with_the_script_that_trains_it(own_config):
    cfg = load_config(own_config(PANOPTIC_CONFIG), SLIM)
    with pytest.raises(ConfigError, match=r"projects/Panoptic-DeepLab/train_net\.py"):
        Trainer(cfg)


def test_the_polynomial_schedule_needs_its_power():
    config = CONFIGS / "quick_schedules/panoptic_lovasz_shapes.yaml"
    options = ["DATASETS.TRAIN", (), "DATASETS.TEST", (), "DATASETS.PANOPTIC", []]
    options += ["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"]
    with pytest.raises(ConfigError, match=r"'WarmupPolyLR', expected SOLVER\.POLY_LR_POWER"):
        load_config(config, options)
    cfg = load_config(config, [*options, "SOLVER.POLY_LR_POWER", 0.8])
    assert cfg.SOLVER.POLY_LR_POWER == 0.8 and "POINT_HEAD" not in cfg.MODEL
