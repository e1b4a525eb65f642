import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage

from panoptic_lovasz.config import add_panoptic_lovasz_config
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.losses import (
    SEM_SEG_LOSS_REGISTRY,
    CrossEntropyLoss,
    CrossEntropyLovaszLoss,
    LovaszSoftmaxLoss,
    build_sem_seg_loss,
    cross_entropy_lovasz,
    fused,
    lovasz_softmax,
)
from panoptic_lovasz.modeling import losses as build_module


def config(**loss):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    for key, value in loss.items():
        cfg.merge_from_list([f"MODEL.SEM_SEG_HEAD.LOSS.{key}", value])
    return cfg


def make(ignored=0.2):
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    target = torch.randint(0, 4, (2, 16, 24))
    target[torch.rand(target.shape) < ignored] = 255
    return logits, target


def gradient(losses, logits):
    return torch.autograd.grad(sum(losses.values()), logits)[0]


def upsampled(logits):
    return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)


def test_the_default_is_cross_entropy_plus_lovasz_softmax_from_low_resolution_logits():
    loss = build_sem_seg_loss(config())
    logits, target = make()
    losses = loss(logits, target)
    ce, lovasz = cross_entropy_lovasz(logits, target)
    assert type(loss) is CrossEntropyLovaszLoss
    assert losses == {"loss_sem_seg_ce": ce, "loss_sem_seg_lovasz": lovasz}


@pytest.mark.parametrize(
    ("name", "cls", "keys"),
    [
        (
            "CrossEntropyLovaszLoss",
            CrossEntropyLovaszLoss,
            ["loss_sem_seg_ce", "loss_sem_seg_lovasz"],
        ),
        ("LovaszSoftmaxLoss", LovaszSoftmaxLoss, ["loss_sem_seg_lovasz"]),
        ("CrossEntropyLoss", CrossEntropyLoss, ["loss_sem_seg_ce"]),
    ],
)
@pytest.mark.parametrize("fused_", [True, False])
def test_each_loss_returns_its_own_terms(name, cls, keys, fused_):
    loss = build_sem_seg_loss(config(NAME=name, FUSED=fused_))
    logits, target = make()
    losses = loss(logits, target)
    ce, lovasz = cross_entropy_lovasz(logits, target)
    expected = {"loss_sem_seg_ce": ce.item(), "loss_sem_seg_lovasz": lovasz.item()}
    assert type(loss) is cls
    assert list(losses) == keys
    for key in keys:
        assert losses[key].item() == pytest.approx(expected[key], abs=1e-6)
    assert gradient(losses, logits).any()


def test_cross_entropy_loss_is_that_of_detectron2():
    logits, target = make()
    for fused_ in (True, False):
        losses = CrossEntropyLoss(fused=fused_)(logits, target)
        expected = F.cross_entropy(upsampled(logits), target, ignore_index=255)
        assert losses["loss_sem_seg_ce"].item() == pytest.approx(expected.item(), abs=1e-6)
        found = gradient(losses, logits)
        assert torch.allclose(found, torch.autograd.grad(expected, logits)[0], atol=1e-7)


@pytest.mark.parametrize("method", ["binned", "exact"])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.0, 1.0], [1e-5, 2e-5, 1e-5, 1e-5, 0]])
@pytest.mark.parametrize("per_image", [False, True])
def test_the_fused_and_the_upsampled_way_agree(method, weights, per_image):
    options = {"class_weights": weights, "per_image": per_image, "num_bins": 4096}
    logits, target = make()
    target[1, 2:5] = 4
    fast = CrossEntropyLovaszLoss(**options)(logits, target)
    slow = CrossEntropyLovaszLoss(**options, method=method, fused=False)(logits, target)
    assert list(fast) == list(slow)
    for key in fast:
        assert fast[key].item() == pytest.approx(slow[key].item(), abs=2e-6)
    expected = gradient(slow, logits)
    assert (gradient(fast, logits) - expected).norm() < 2e-3 * expected.norm()


def test_the_exact_method_sorts_whether_or_not_fused_is_set():
    logits, target = make()
    expected = lovasz_softmax(upsampled(logits), target, method="exact")
    for fused_ in (True, False):
        loss = build_sem_seg_loss(config(METHOD="exact", FUSED=fused_))
        assert loss(logits, target)["loss_sem_seg_lovasz"] == expected


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"method": "exact"}])
@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0, 1.0, 0.0]])
def test_a_batch_without_labels_costs_0_and_has_zero_gradients(options, weights):
    logits, target = make(ignored=1.1)
    losses = CrossEntropyLovaszLoss(class_weights=weights, **options)(logits, target)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert not gradient(losses, logits).any()


@pytest.mark.parametrize("ignore_index", [-100, 0])
def test_the_ignored_label_may_be_negative_or_a_class_with_class_weights(ignore_index):
    logits, target = make()
    target[target == 255] = ignore_index
    options = {"ignore_index": ignore_index, "class_weights": [0.5, 1.0, 2.0, 0.5, 1.0]}
    fast = CrossEntropyLoss(**options)(logits, target)["loss_sem_seg_ce"]
    slow = CrossEntropyLoss(**options, fused=False)(logits, target)["loss_sem_seg_ce"]
    assert fast.item() == pytest.approx(slow.item())


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"method": "exact"}])
@pytest.mark.parametrize("label", [-1, 5, 256])
def test_a_label_out_of_range_is_an_error_that_names_it(options, label):
    logits, target = make()
    target[0, 0, 0] = label
    with pytest.raises(ValueError, match=f"label {label} "):
        CrossEntropyLovaszLoss(**options)(logits, target)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.0, 1.0]])
@pytest.mark.parametrize("label", [-1, 5, 300])
def test_unchecked_labels_out_of_range_count_as_ignored(weights, label, monkeypatch):
    """As on CUDA, where the labels reach the computation before the host has seen them."""
    monkeypatch.setattr(build_module, "check_labels", lambda *_: None)
    logits, target = make()
    loss = CrossEntropyLoss(fused=False, class_weights=weights)
    expected = loss(logits, target)
    target[target == 255] = label
    assert loss(logits, target) == expected


@pytest.mark.parametrize(
    ("start", "ramp", "iteration", "factor"),
    [
        (0, 0, 0, 1),
        (10, 0, 9, 0),
        (10, 0, 10, 1),
        (10, 4, 10, 0),
        (10, 4, 11, 0.25),
        (10, 4, 13, 0.75),
        (10, 4, 14, 1),
        (10, 4, 99, 1),
    ],
)
@pytest.mark.parametrize("fused_", [True, False])
def test_the_lovasz_term_joins_at_its_iteration_and_ramps_up(
    start, ramp, iteration, factor, fused_
):
    cfg = config(LOVASZ_START_ITER=start, LOVASZ_RAMP_ITERS=ramp, LOVASZ_WEIGHT=2.0, FUSED=fused_)
    loss = build_sem_seg_loss(cfg)
    logits, target = make()
    full = loss(logits, target)  # outside of training the schedule does not apply
    with EventStorage(iteration):
        losses = loss(logits, target)
    expected = factor * full["loss_sem_seg_lovasz"].item()
    assert losses["loss_sem_seg_lovasz"].item() == pytest.approx(expected, abs=1e-6)
    assert losses["loss_sem_seg_ce"] == full["loss_sem_seg_ce"]
    assert gradient({"lovasz": losses["loss_sem_seg_lovasz"]}, logits).any() == (factor > 0)


@pytest.mark.parametrize("fused_", [True, False])
def test_cross_entropy_alone_does_not_compute_the_lovasz_term(monkeypatch, fused_):
    monkeypatch.setattr(fused, "bin_weights", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(build_module, "lovasz_softmax", lambda *_, **__: pytest.fail("computed"))
    CrossEntropyLoss(fused=fused_)(*make())


@pytest.mark.parametrize("fused_", [True, False])
def test_before_its_first_iteration_the_lovasz_term_is_not_computed(monkeypatch, fused_):
    monkeypatch.setattr(fused, "bin_weights", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(build_module, "lovasz_softmax", lambda *_, **__: pytest.fail("computed"))
    loss = CrossEntropyLovaszLoss(lovasz_start_iter=5, fused=fused_)
    logits, target = make()
    with EventStorage(4):
        assert loss(logits, target)["loss_sem_seg_lovasz"].item() == 0


@pytest.mark.parametrize("fused_", [True, False])
def test_every_key_of_the_config_reaches_the_loss(fused_):
    cfg = config(
        FUSED=fused_,
        CE_WEIGHT=0.5,
        LOVASZ_WEIGHT=2.0,
        CLASSES=[1, 3],
        PER_IMAGE=True,
        NUM_BINS=64,
        CLASS_WEIGHTS=[1.0, 2.0, 3.0, 4.0, 5.0],
        IMPL="torch",
    )
    cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE = 2
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 3
    logits = torch.randn(2, 5, 4, 6)
    target = torch.randint(0, 5, (2, 8, 12))
    expected = cross_entropy_lovasz(
        logits,
        target,
        scale_factor=2,
        ignore_index=3,
        ce_weight=0.5,
        lovasz_weight=2.0,
        classes=[1, 3],
        per_image=True,
        num_bins=64,
        class_weights=torch.arange(1.0, 6.0),
        impl="torch",
    )
    found = build_sem_seg_loss(cfg)(logits, target).values()
    assert [x.item() for x in found] == pytest.approx([x.item() for x in expected], rel=1e-5)


def test_the_implementation_is_checked_where_the_loss_is_computed():
    with pytest.raises(ValueError, match="impl must be one of"):
        CrossEntropyLovaszLoss(impl="cuda")(*make())


def test_a_users_own_loss_is_built_from_its_name():
    @SEM_SEG_LOSS_REGISTRY.register()
    class FromWholeConfig(torch.nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES

    @SEM_SEG_LOSS_REGISTRY.register()
    class FromItsArguments(torch.nn.Module):
        def __init__(self, *, num_classes):
            super().__init__()
            self.num_classes = num_classes

        @classmethod
        def from_config(cls, cfg):
            return {"num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}

    for name in ("FromWholeConfig", "FromItsArguments"):
        assert build_sem_seg_loss(config(NAME=name)).num_classes == 5
    with pytest.raises(KeyError, match="NoSuchLoss"):
        build_sem_seg_loss(config(NAME="NoSuchLoss"))


def test_class_weights_of_any_type_do_for_logits_of_float32():
    logits, target = make()
    expected = CrossEntropyLovaszLoss(class_weights=[1.0, 2, 3, 4, 5], fused=False)(logits, target)
    weights = torch.arange(1, 6, dtype=torch.float64)
    found = CrossEntropyLovaszLoss(class_weights=weights, fused=False)(logits, target)
    assert found == expected


def test_losses_add_nothing_to_a_checkpoint_but_move_with_the_model():
    loss = build_sem_seg_loss(config(CLASS_WEIGHTS=[1.0] * 5))
    assert not loss.state_dict()
    assert loss.to("meta").class_weights.device.type == "meta"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("CE_WEIGHT", -1.0, "not below 0"),
        ("LOVASZ_WEIGHT", float("nan"), "not below 0"),
        ("LOVASZ_START_ITER", -1, "not below 0"),
        ("LOVASZ_RAMP_ITERS", -5, "not below 0"),
        ("CLASSES", "some", '"present", "all" or a list of ids from 0 to 4'),
        ("CLASSES", [0, 5], "0 to 4"),
        ("CLASSES", [1, 1], "0 to 4"),
        ("CLASSES", [], "0 to 4"),
        ("METHOD", "sorted", '"binned" or "exact"'),
        ("NUM_BINS", 0, "positive"),
        ("IMPL", "cuda", "auto, torch, numba, triton"),
        ("CLASS_WEIGHTS", [1.0, 2.0], "5 classes"),
        ("CLASS_WEIGHTS", [1.0, 1.0, 1.0, 1.0, -1.0], "not below 0"),
    ],
)
def test_a_value_that_cannot_be_is_a_config_error_that_names_key_and_value(key, value, expected):
    with pytest.raises(ConfigError) as error:
        build_sem_seg_loss(config(**{key: value}))
    assert f"MODEL.SEM_SEG_HEAD.LOSS.{key} is {value!r}, expected" in str(error.value)
    assert expected in str(error.value)


def test_a_global_batch_cannot_be_sorted():
    with pytest.raises(ConfigError, match=r'GLOBAL_BATCH .* "exact"'):
        build_sem_seg_loss(config(GLOBAL_BATCH=True, METHOD="exact"))


def test_a_global_batch_of_a_single_process_is_its_own_batch():
    logits, target = make()
    for fused_ in (True, False):
        alone = build_sem_seg_loss(config(GLOBAL_BATCH=True, FUSED=fused_))(logits, target)
        assert alone == build_sem_seg_loss(config(FUSED=fused_))(logits, target)


@pytest.mark.parametrize("fused_", [True, False])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.0, 1.0]])
def test_a_global_batch_has_the_gradients_of_all_processes(fused_, weights, second_process):
    logits, target = make()
    options = {"fused": fused_, "class_weights": weights}
    expected = sum(cross_entropy_lovasz(logits, target, class_weights=weights))
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    for global_batch, factor in ((False, 1), (True, second_process[1])):
        losses = CrossEntropyLovaszLoss(**options, global_batch=global_batch)(logits, target)
        difference = gradient(losses, logits) - factor * expected_gradient
        assert difference.norm() < 2e-2 * expected_gradient.norm()


def test_the_defaults_of_the_loss_are_those_of_the_config():
    loss = CrossEntropyLovaszLoss()
    for key, value in CrossEntropyLovaszLoss.from_config(config()).items():
        assert getattr(loss, key) == value


def test_the_fused_loss_never_upsamples_the_logits(monkeypatch):
    monkeypatch.setattr(CrossEntropyLovaszLoss, "_from_full_resolution", None)  # cannot be called
    CrossEntropyLovaszLoss()(*make())


def test_the_lovasz_loss_alone_does_not_compute_the_cross_entropy(monkeypatch):
    monkeypatch.setattr(build_module, "_cross_entropy", lambda *_: pytest.fail("computed"))
    LovaszSoftmaxLoss(fused=False)(*make())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("CLASSES", value) for value in ("present", "all", [0], [4])],
        ("NUM_BINS", 1),
        ("CE_WEIGHT", 0.0),
    ],
)
def test_a_value_at_the_border_of_its_range_will_do(key, value):
    assert getattr(build_sem_seg_loss(config(**{key: value})), key.lower()) == value
