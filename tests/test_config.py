import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from panoptic_lovasz import Trainer, add_panoptic_lovasz_config, load_config
from panoptic_lovasz.comparison.runs import plan_runs
from panoptic_lovasz.config import (
    check_config,
    check_device,
    check_training,
    defaults,
    load_found_config,
)
from panoptic_lovasz.data import make_shapes
from panoptic_lovasz.errors import ConfigError, DatasetError
from panoptic_lovasz.modeling import clear_build_errors

PROJECT = Path(__file__).resolve().parents[1]
WITHOUT_DATA = ["DATASETS.PANOPTIC", [], "DATASETS.TRAIN", (), "DATASETS.TEST", ()]
WITHOUT_DATA += ["MODEL.ROI_HEADS.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("config") / "shapes"
    return make_shapes(root, num_train=1, num_val=1, size=64, progress=False)


@pytest.fixture
def write(tmp_path):
    def write(content, name="config.yaml"):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def own_data(shapes, **more):
    """A user's config: a data set, and nothing about its classes."""
    return {
        "DATASETS": {
            "PANOPTIC": [
                {
                    "name": "own_{split}",
                    "json": f"{shapes}/annotations/{{split}}.json",
                    "images": f"{shapes}/{{split}}",
                    "panoptic": f"{shapes}/panoptic_{{split}}",
                    "splits": ["train", "val"],
                }
            ],
            "TRAIN": ["own_train"],
            "TEST": ["own_val"],
        },
        **more,
    }


def counts(cfg):
    return cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def given(things=None, semantic=None):
    model = {}
    if things is not None:
        model["ROI_HEADS"] = {"NUM_CLASSES": things}
    if semantic is not None:
        model["SEM_SEG_HEAD"] = {"NUM_CLASSES": semantic}
    return {"MODEL": model}


def test_a_config_registers_its_data_and_counts_its_classes(write, shapes):
    cfg = load_config(write(own_data(shapes)))
    assert counts(cfg) == (4, 6)
    assert len(DatasetCatalog.get("own_train")) == 1
    assert not cfg.is_frozen()


def test_a_dumped_config_loads_again_to_the_same(write, shapes):
    cfg = load_config(write(own_data(shapes)), ["SOLVER.BASE_LR", "0.5"])
    again = load_config(write(cfg.dump(), "dumped.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.SOLVER.BASE_LR == 0.5


def test_counts_may_be_given_if_they_are_those_of_the_data(write, shapes):
    assert counts(load_config(write(own_data(shapes, **given(4, 6))))) == (4, 6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (given(things=80), "ROI_HEADS.NUM_CLASSES is 80, but the data set 'own_train' has 4"),
        (given(semantic=54), "SEM_SEG_HEAD.NUM_CLASSES is 54, but the data set 'own_train' has 6"),
    ],
)
def test_a_contradiction_is_an_error_even_for_a_default_value(write, shapes, wrong, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(own_data(shapes, **wrong)))
    write(own_data(shapes, **wrong), "base.yaml")
    with pytest.raises(ConfigError, match=message):
        load_config(write({"_BASE_": "base.yaml", "SEED": 1}, "inherits.yaml"))
    key = "MODEL." + message.split(" ")[0]
    with pytest.raises(ConfigError, match=message):
        load_config(write(own_data(shapes)), [key, message.split()[2].rstrip(",")])


def test_counts_of_a_base_are_for_the_data_of_that_base(write, shapes):
    coco = {"DATASETS": {"TRAIN": ["coco_2017_train_panoptic"]}, **given(80, 54)}
    write(coco, "coco.yaml")
    write({"_BASE_": "coco.yaml", "SEED": 1}, "schedule.yaml")
    assert counts(load_config(write({"_BASE_": "schedule.yaml"}))) == (80, 54)
    assert counts(load_config(write(own_data(shapes, _BASE_="schedule.yaml")))) == (4, 6)
    assert counts(load_config(write(own_data(shapes, _BASE_=["schedule.yaml"])))) == (4, 6)
    with pytest.raises(ConfigError, match="NUM_CLASSES is 80"):
        load_config(write(own_data(shapes, _BASE_="schedule.yaml", **given(80))))


def test_a_zoo_config_of_detectron2_has_cocos_counts(write):
    content = {"DATASETS": {"TRAIN": ["coco_2017_train_panoptic_separated"]}}
    assert counts(load_config(write(content))) == (80, 54)


def test_where_the_data_is_not_the_config_that_training_wrote_still_loads(write, shapes, tmp_path):
    content = own_data(tmp_path / "gone", **given(4, 6))
    cfg = load_config(write(content))
    assert counts(cfg) == (4, 6)
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).evaluator_type == "panoptic_lovasz"
    with pytest.raises(DatasetError, match=r"gone/annotations/train\.json does not exist"):
        DatasetCatalog.get("own_train")


def test_missing_data_whose_classes_are_needed_is_an_error_with_the_path(write, tmp_path):
    with pytest.raises(
        DatasetError, match=r"'own_train': the panoptic JSON .*gone/annotations/train\.json"
    ):
        load_config(write(own_data(tmp_path / "gone")))


def test_an_unknown_key_is_an_error_with_the_nearest_known_one(write):
    with pytest.raises(ConfigError, match=r"config\.yaml.*BASE_LRR; did you mean SOLVER.BASE_LR\?"):
        load_config(write({"SOLVER": {"BASE_LRR": 1.0}}))
    with pytest.raises(ConfigError, match=r"options .*did you mean SOLVER.BASE_LR\?"):
        load_config(write({}), ["SOLVER.BASE_LRR", "1"])


def test_an_unknown_section_is_an_error_with_the_nearest_known_one(write):
    for content, nearest in [
        ({"SOLVERS": {"BASE_LR": 1.0}}, "SOLVER"),
        ({"MODEL": {"SEMSEG_HEAD": {"LOSS": {"NAME": "x"}}}}, "MODEL.SEM_SEG_HEAD"),
    ]:
        with pytest.raises(ConfigError, match=rf"did you mean {re.escape(nearest)}\? \(a pl"):
            load_config(write(content))


@pytest.mark.parametrize(
    "text",
    [
        "SEED: [",
        "- a\n- b",
        "just text",
        "SEED: {a: 1}",
        "_BASE_: nowhere.yaml",
        "SEED: !!python/object/apply:os.getpid []",
        "VERSION: 99",
        "\0",
    ],
)
def test_a_file_that_is_no_config_is_an_error_that_names_it(write, text):
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(write(text))


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_options_that_do_not_fit_are_an_error(write):
    with pytest.raises(ConfigError, match="options SEED: SEED has no value"):
        load_config(write({}), ["SEED"])
    with pytest.raises(ConfigError, match=r"options .*SEED"):
        load_config(write({}), ["SEED", "abc"])
    with pytest.raises(ConfigError, match=r"options SEED\.X"):
        load_config(write({}), ["SEED.X", "1"])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MODEL.SEM_SEG_HEAD.LOSS.NAME", "LovaszLoss", "one of 'CrossEntropyLovaszLoss', 'Lov"),
        ("MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS", "[1, -1, 1, 1, 1, 1]", "nothing, or one number"),
        ("MODEL.SEM_SEG_HEAD.LOSS.METHOD", "sorted", '"binned" or "exact"'),
        ("MODEL.META_ARCHITECTURE", "PanopticLovasz", "'PanopticLovaszFPN'"),
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn", "'build_resnet_fpn_backbone'"),
        ("MODEL.SEM_SEG_HEAD.NAME", "SemSegHead", "'LovaszSemSegFPNHead'"),
        ("MODEL.ROI_HEADS.NAME", "StandardHeads", "'StandardROIHeads'"),
        ("MODEL.ROI_BOX_HEAD.NAME", "''", "'FastRCNNConvFCHead' with StandardROIHeads"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskHead", "'MaskRCNNConvUpsampleHead'"),
        ("MODEL.RPN.HEAD_NAME", "Head", "'StandardRPNHead'"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "rpn", "'RPN', 'RRPN', 'PrecomputedProposals'"),
        ("MODEL.ANCHOR_GENERATOR.NAME", "Anchors", "'DefaultAnchorGenerator'"),
        ("MODEL.RESNETS.DEPTH", "51", "one of 18, 34, 50, 101, 152"),
        ("MODEL.RESNETS.DEPTH", "101.0", "the type int"),
        ("MODEL.RESNETS.NORM", "BatchNorm", "'BN', 'SyncBN'"),
        ("MODEL.FPN.FUSE_TYPE", "max", "one of 'sum', 'avg'"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "Align", "'ROIAlignV2'"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "iou", "'giou'"),
        ("MODEL.PANOPTIC_FPN.COMBINE.IMPL", "faster", "one of 'fast', 'detectron2'"),
        ("MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH", "1.5", "a number from 0 to 1"),
        ("MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]", "a number above 0 for each of the 3 channels"),
        ("DATALOADER.NUM_WORKERS", "-1", "a number not below 0"),
        ("INPUT.FORMAT", "GBR", "one of 'BGR', "),
        ("INPUT.CROP.SIZE", "[0.9, 512]", "height and width above 0, at most 1 of the image"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "sizes above 0"),
        ("SOLVER.BASE_LR", "0.0", "a number above 0"),
        ("SOLVER.BASE_LR", "1e999", "a finite number"),
        ("SOLVER.BASE_LR", "1", "the type float"),
        ("SOLVER.BASE_LR", "None", "a value of the type float, such as 0.001"),
        ("SOLVER.STEPS", "(3, 2)", "iterations in increasing order"),
        ("SOLVER.IMS_PER_BATCH", "0", "a number above 0"),
        ("SOLVER.ACCUMULATE_STEPS", "0", "a number above 0"),
        ("MODEL.MASK_ON", "False", "True: a panoptic segmentation is made of masks"),
        ("MODEL.KEYPOINT_ON", "True", "False: panoptic data has no keypoints"),
        ("MODEL.ROI_MASK_HEAD.LOVASZ_WEIGHT", "-1.0", "a number not below 0"),
        ("MODEL.PANOPTIC_FPN.COMBINE.MARGIN", "-3.0", "a number from 0 to 1"),
        ("MODEL.PANOPTIC_FPN.COMBINE.VOID_LABELS", "['road']", "labels of the semantic head, from"),
        ("MODEL.PANOPTIC_FPN.COMBINE.VOID_LABELS", "[6]", "from 0 to 5 (MODEL.SEM_SEG_HEAD.NUM_C"),
        ("MODEL.PANOPTIC_FPN.COMBINE.VOID_LABELS", "[-1]", "from 0 to 5"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line_with_key_value_and_what_is_possible(
    key, value, expected
):
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(config, [*WITHOUT_DATA, key, value])
    message = str(caught.value)
    found = "inf" if value == "1e999" else value
    assert key in message and expected in message and "\n" not in message
    assert found in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("DATALOADER.SAMPLER_TRAIN", "Sampler", "one of 'TrainingSampler'"),
        ("INPUT.RANDOM_FLIP", "both", "one of 'horizontal', 'vertical', 'none'"),
        ("INPUT.CROP.TYPE", "relative_size", "'relative_range'"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "random", "one of 'choice', 'range'"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full", "one of 'value', 'norm'"),
        ("SOLVER.LR_SCHEDULER_NAME", "Cosine", "one of 'WarmupMultiStepLR', 'WarmupCosineLR'"),
        ("SOLVER.WARMUP_METHOD", "burnin", "one of 'linear', 'constant'"),
    ],
)
def test_what_a_training_alone_reads_is_checked_there_and_there_alone(key, value, expected):
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    cfg = load_config(config, [*WITHOUT_DATA, key, value])
    with pytest.raises(ConfigError) as caught:
        Trainer.check(cfg)
    message = str(caught.value)
    assert key in message and value in message and expected in message and "\n" not in message


LOSS = "MODEL.SEM_SEG_HEAD.LOSS"
ALONE = [f"{LOSS}.NAME", "LovaszSoftmaxLoss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", f"{LOSS}.NAME", "CrossEntropyDiceLoss"],
            "LOSS.NAME is 'CrossEntropyDiceLoss', expected .* with the head 'SemSegFPNHead'",
        ),
        (
            ["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", f"{LOSS}.LOVASZ_WEIGHT", 3.0],
            r"LOSS.LOVASZ_WEIGHT is 3\.0, expected 1\.0, its default, with the head 'SemSegFPN",
        ),
        (
            ["MODEL.ROI_MASK_HEAD.LOVASZ_WEIGHT", 1.0],
            r"LOVASZ_WEIGHT is 1\.0, expected 0 with MODEL.ROI_MASK_HEAD.NAME 'MaskRCNN",
        ),
        (
            ["SOLVER.OPTIMIZER", "ADAM"],
            "'ADAM', expected 'SGD': another optimizer is a choice of Panoptic-DeepLab",
        ),
        ([f"{LOSS}.NAME", "CrossEntropyLoss", f"{LOSS}.CE_WEIGHT", 0.0], r"CE_WEIGHT is 0\.0, exp"),
        ([*ALONE, f"{LOSS}.LOVASZ_WEIGHT", 0.0], r"LOVASZ_WEIGHT is 0\.0, expected .* above 0"),
        (
            [*ALONE, f"{LOSS}.LOVASZ_START_ITER", 100],
            "LOVASZ_START_ITER is 100, expected 0: without cross",
        ),
    ],
)
def test_what_would_have_no_effect_on_a_training_is_refused_there_and_there_alone(options, message):
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    cfg = load_config(config, [*WITHOUT_DATA, *options])  # what was trained so predicts as ever
    with pytest.raises(ConfigError, match=message):
        Trainer(cfg)
    cfg.DATASETS.TEST = ("some",)
    with pytest.raises(ConfigError, match=message):
        plan_runs(cfg, {"as it is": {}}, [1], Path("output"))


@pytest.mark.parametrize(
    "options",
    [
        [f"{LOSS}.CE_WEIGHT", 0.0, f"{LOSS}.LOVASZ_WEIGHT", 0.0],
        ["MODEL.PANOPTIC_FPN.COMBINE.VOID_LABELS", [60]],
        ["INPUT.GAUSSIAN_SIGMA", 10],  # of Panoptic-DeepLab, which sets another optimizer
    ],
)
def test_keys_of_parts_that_a_network_does_not_have_are_not_looked_at(options):
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    network = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]
    check_training(load_config(config, [*WITHOUT_DATA, *network, *options]))


def test_a_plugin_adds_keys_of_its_own(write, tmp_path, monkeypatch):
    (tmp_path / "plugin_with_keys.py").write_text(
        f"def add_config(cfg):\n    cfg.{LOSS}.GAMMA = 2.0\n    cfg.MODEL.MINE = 'there'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PANOPTIC_LOVASZ_PLUGINS", "plugin_with_keys")
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    stock_head = ["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"]
    cfg = load_config(config, [*WITHOUT_DATA, f"{LOSS}.GAMMA", 3.0, *stock_head])
    check_training(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS.GAMMA == 3.0 and cfg.MODEL.MINE == "there"
    cfg.MODEL.MINE = "elsewhere"
    found = tmp_path / "found.yaml"
    found.write_text(cfg.dump())
    cfg = load_found_config(found)
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS.GAMMA == 3.0 and cfg.MODEL.MINE == "there"
    monkeypatch.delenv("PANOPTIC_LOVASZ_PLUGINS")
    needs_it = r"the plugin in \$PANOPTIC_LOVASZ_PLUGINS"
    with pytest.raises(ConfigError, match=rf"MODEL\.MINE.*{needs_it}"):
        load_found_config(found)


def test_heads_that_read_the_keys_of_the_losses_may_have_them():
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    mask = "MODEL.ROI_MASK_HEAD"
    own = [f"{mask}.NAME", "LovaszMaskHead", f"{mask}.LOVASZ_WEIGHT", 1.0]
    check_training(load_config(config, [*WITHOUT_DATA, *own]))
    check_training(load_config(config, [*WITHOUT_DATA, f"{LOSS}.LOVASZ_START_ITER", 100]))
    # DeepLab's head has a cross-entropy of its own, which this one joins
    deeplab = PROJECT / "configs/Cityscapes-SemanticSegmentation/deeplab_v3_plus_lovasz_R_103.yaml"
    options = [*WITHOUT_DATA, *ALONE, f"{LOSS}.LOVASZ_START_ITER", 100]
    check_training(load_config(deeplab, options))


def test_rules_of_merging_that_detectron2s_architecture_would_ignore_are_refused():
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    theirs = [*WITHOUT_DATA, "MODEL.META_ARCHITECTURE", "PanopticFPN"]
    load_config(config, theirs)
    for key, value in (("VOID_LABELS", "(1,)"), ("CONFIDENCE_AWARE", "True")):
        with pytest.raises(ConfigError, match=r"'PanopticFPN', expected 'PanopticLovaszFPN' with"):
            load_config(config, [*theirs, f"MODEL.PANOPTIC_FPN.COMBINE.{key}", value])


def test_the_defaults_and_every_config_of_the_project_can_be_used():
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    check_config(cfg)
    for file in (PROJECT / "configs").rglob("*.yaml"):
        load_config(file, WITHOUT_DATA)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RPN.IN_FEATURES", ["p9"], r"'p9'; it is in MODEL\.RPN\.IN_FEATURES \['p9'\]"),
        ("MODEL.FPN.IN_FEATURES", ["res9"], r"'res9'; it is in MODEL\.FPN\.IN_FEATURES"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16]], "cannot be built"),
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", r"AssertionError: assert .*roi_heads\.py, line"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line_that_leads_to_the_key(
    slim_cfg, key, value, message
):
    cfg = slim_cfg.clone()
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=message) as caught, clear_build_errors(cfg):
        build_model(cfg)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_one_line_that_says_what_to_do(slim_cfg):
    cfg = slim_cfg.clone()
    cfg.MODEL.DEVICE = "cuda:99"
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE is 'cuda:99'.*--num-gpus 0"):
        check_device(cfg)
    for name in ("gpu", "hpu", "meta"):
        cfg.MODEL.DEVICE = name
        with pytest.raises(ConfigError, match=rf"MODEL\.DEVICE is '{name}'"):
            check_device(cfg)


def test_every_key_of_the_project_has_a_default():
    plain, cfg = get_cfg(), get_cfg()
    add_panoptic_lovasz_config(cfg)
    assert cfg.DATASETS.PANOPTIC == []
    assert cfg.INPUT.LSJ.ENABLED is False
    assert cfg.INPUT.COLOR_AUG_SSD is False
    assert cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 1.0
    assert counts(cfg) == counts(plain)


def test_a_removed_key_of_an_old_config_is_ignored_with_one_line(write, monkeypatch, caplog):
    monkeypatch.setattr(defaults, "_REMOVED", (*defaults._REMOVED, "OUTPUT.OLD_KEY"))
    cfg = load_config(
        write({"VERSION": 2, "OUTPUT": {"OLD_KEY": 3, "PLOTS": False}}), ["OUTPUT.OLD_KEY", "4"]
    )
    assert cfg.OUTPUT.PLOTS is False and "OLD_KEY" not in cfg.OUTPUT
    assert caplog.messages == ["Deprecated config key (ignoring): OUTPUT.OLD_KEY"] * 2
    add_panoptic_lovasz_config(cfg)  # a second time, as a user's script may do
