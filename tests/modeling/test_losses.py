import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage

from panoptic_lovasz.config import add_panoptic_lovasz_config
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.losses import (
    SEM_SEG_LOSS_REGISTRY,
    BalancedCrossEntropyLoss,
    CrossEntropyDiceLoss,
    CrossEntropyLoss,
    CrossEntropyLovaszLoss,
    build_sem_seg_loss,
    cross_entropy_lovasz,
    cross_entropy_region,
    lovasz_softmax,
    passes,
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
    ("name", "terms"),
    [
        ("CrossEntropyLovaszLoss", ["ce", "lovasz"]),
        ("LovaszSoftmaxLoss", ["lovasz"]),
        ("CrossEntropyLoss", ["ce"]),
        ("CrossEntropyJaccardLoss", ["ce", "jaccard"]),
        ("CrossEntropyDiceLoss", ["ce", "dice"]),
        ("CrossEntropyTverskyLoss", ["ce", "tversky"]),
    ],
)
def test_each_loss_returns_its_own_terms(name, terms):
    loss = build_sem_seg_loss(config(NAME=name))
    logits, target = make()
    losses = loss(logits, target)
    assert type(loss).__name__ == name
    region = "lovasz" if terms[-1] == "ce" else terms[-1]
    values = cross_entropy_region(logits, target, region=region)
    expected = dict(zip(("ce", region), values, strict=True))
    assert losses == {f"loss_sem_seg_{term}": expected[term] for term in terms}
    assert gradient(losses, logits).any()


def test_cross_entropy_loss_is_that_of_detectron2():
    logits, target = make()
    losses = CrossEntropyLoss()(logits, target)
    expected = F.cross_entropy(upsampled(logits), target, ignore_index=255)
    assert losses["loss_sem_seg_ce"].item() == pytest.approx(expected.item(), abs=1e-6)
    found = gradient(losses, logits)
    assert torch.allclose(found, torch.autograd.grad(expected, logits)[0], atol=1e-7)


@pytest.mark.parametrize("weights", [[], [0.5, 1.0, 2.0, 1.0, 1.0]])
def test_the_balanced_cross_entropy_is_the_mean_over_classes_of_the_mean_over_their_pixels(weights):
    logits, target = make()
    target[:, :13][target[:, :13] == 3] = 255  # a rare class
    losses = build_sem_seg_loss(config(NAME="BalancedCrossEntropyLoss", CLASS_WEIGHTS=weights))
    log_p = upsampled(logits).log_softmax(1).transpose(0, 1)
    means = torch.stack([-log_p[c][target == c].mean() for c in range(4)])
    expected = torch.tensor(weights or [1.0] * 5)[:4] @ means / sum((weights or [1.0] * 5)[:4])
    found = losses(logits, target)
    assert found["loss_sem_seg_ce"].item() == pytest.approx(expected.item(), rel=1e-5)
    expected_gradient = torch.autograd.grad(expected, logits)[0]
    assert torch.allclose(gradient(found, logits), expected_gradient, atol=1e-7)


def test_a_balanced_cross_entropy_without_labels_costs_0():
    logits, target = make(ignored=1.1)
    losses = build_sem_seg_loss(config(NAME="BalancedCrossEntropyLoss"))(logits, target)
    assert losses["loss_sem_seg_ce"].item() == 0 and not gradient(losses, logits).any()


def test_a_global_batch_is_balanced_over_all_processes(second_process):
    """The other process has the same images, or images without labels: the same balance."""
    logits, target = make()
    expected = BalancedCrossEntropyLoss()(logits, target)
    found = BalancedCrossEntropyLoss(global_batch=True)(logits, target)
    assert found["loss_sem_seg_ce"].item() == pytest.approx(expected["loss_sem_seg_ce"].item())


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.0, 1.0], [1e-5, 2e-5, 1e-5, 1e-5, 0]])
@pytest.mark.parametrize("per_image", [False, True])
def test_the_binned_and_the_exact_method_agree(weights, per_image):
    options = {"class_weights": weights, "per_image": per_image, "num_bins": 4096}
    logits, target = make()
    target[1, 2:5] = 4
    fast = CrossEntropyLovaszLoss(**options)(logits, target)
    slow = CrossEntropyLovaszLoss(**options, method="exact")(logits, target)
    assert list(fast) == list(slow)
    for key in fast:
        assert fast[key].item() == pytest.approx(slow[key].item(), abs=2e-6)
    expected = gradient(slow, logits)
    assert (gradient(fast, logits) - expected).norm() < 2e-3 * expected.norm()


def test_the_exact_method_sorts_the_upsampled_logits():
    logits, target = make()
    expected = lovasz_softmax(upsampled(logits), target, method="exact")
    losses = build_sem_seg_loss(config(METHOD="exact"))(logits, target)
    assert losses["loss_sem_seg_lovasz"] == expected
    assert losses["loss_sem_seg_ce"] == cross_entropy_lovasz(logits, target)[0]


@pytest.mark.parametrize("options", [{}, {"method": "exact"}])
@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0, 1.0, 0.0]])
def test_a_batch_without_labels_costs_0_and_has_zero_gradients(options, weights):
    logits, target = make(ignored=1.1)
    losses = CrossEntropyLovaszLoss(class_weights=weights, **options)(logits, target)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert not gradient(losses, logits).any()


@pytest.mark.parametrize("options", [{}, {"method": "exact"}])
@pytest.mark.parametrize("label", [-1, 5, 256])
def test_a_label_out_of_range_is_an_error_that_names_it(options, label):
    logits, target = make()
    target[0, 0, 0] = label
    with pytest.raises(ValueError, match=f"label {label} "):
        CrossEntropyLovaszLoss(**options)(logits, target)


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
@pytest.mark.parametrize("method", ["binned", "exact"])
def test_the_lovasz_term_joins_at_its_iteration_and_ramps_up(
    start, ramp, iteration, factor, method
):
    cfg = config(LOVASZ_START_ITER=start, LOVASZ_RAMP_ITERS=ramp, LOVASZ_WEIGHT=2.0, METHOD=method)
    loss = build_sem_seg_loss(cfg)
    logits, target = make()
    full = loss(logits, target)  # outside of training the schedule does not apply
    with EventStorage(iteration):
        losses = loss(logits, target)
    expected = factor * full["loss_sem_seg_lovasz"].item()
    assert losses["loss_sem_seg_lovasz"].item() == pytest.approx(expected, abs=1e-6)
    assert losses["loss_sem_seg_ce"] == full["loss_sem_seg_ce"]
    assert gradient({"lovasz": losses["loss_sem_seg_lovasz"]}, logits).any() == (factor > 0)


METHOD = pytest.mark.parametrize("method", ["binned", "exact"])


@METHOD
def test_cross_entropy_alone_does_not_compute_the_lovasz_term(monkeypatch, method):
    CrossEntropyLovaszLoss()(*make())  # the kernels are tried when they are used first
    monkeypatch.setattr(passes, "region_loss", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(build_module, "lovasz_softmax", lambda *_, **__: pytest.fail("computed"))
    CrossEntropyLoss(method=method)(*make())


@METHOD
def test_before_its_first_iteration_the_lovasz_term_is_not_computed(monkeypatch, method):
    CrossEntropyLovaszLoss()(*make())  # the kernels are tried when they are used first
    monkeypatch.setattr(passes, "region_loss", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(build_module, "lovasz_softmax", lambda *_, **__: pytest.fail("computed"))
    loss = CrossEntropyLovaszLoss(lovasz_start_iter=5, method=method)
    logits, target = make()
    with EventStorage(4):
        assert loss(logits, target)["loss_sem_seg_lovasz"].item() == 0


@pytest.mark.parametrize("region", ["Lovasz", "Tversky"])
def test_every_key_of_the_config_reaches_the_loss(region):
    cfg = config(
        NAME=f"CrossEntropy{region}Loss",
        TVERSKY_ALPHA=0.1,
        TVERSKY_BETA=0.8,
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
    expected = cross_entropy_region(
        logits,
        target,
        region=region.lower(),
        tversky_alpha=0.1,
        tversky_beta=0.8,
        scale_factor=2,
        ignore_index=3,
        ce_weight=0.5,
        region_weight=2.0,
        classes=[1, 3],
        per_image=True,
        num_bins=64,
        class_weights=torch.arange(1.0, 6.0),
        impl="torch",
    )
    found = build_sem_seg_loss(cfg)(logits, target).values()
    assert [x.item() for x in found] == pytest.approx([x.item() for x in expected], rel=1e-5)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (CrossEntropyLovaszLoss, {"impl": "cuda"}, "impl must be one of"),
        (CrossEntropyDiceLoss, {"method": "exact"}, 'method "exact" is for the Lovász loss'),
        (
            CrossEntropyLovaszLoss,
            {"method": "sorted"},
            "method is .sorted., expected one",
        ),
        (
            CrossEntropyLovaszLoss,
            {"method": "exact", "global_batch": True},
            "takes no global_batch",
        ),
        (CrossEntropyLovaszLoss, {"class_weights": [1, -1]}, r"class_weights has -1\.0, expected"),
        (CrossEntropyLovaszLoss, {"class_weights": [1, math.inf]}, "class_weights has inf"),
    ],
)
def test_options_that_cannot_be_are_errors_when_a_loss_is_made(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


def test_keys_beside_those_of_the_loss_are_for_losses_of_the_users_own():
    cfg = config()
    cfg.MODEL.SEM_SEG_HEAD.LOSS.FOCAL_GAMMA = 2.0
    build_sem_seg_loss(cfg)


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
    expected = CrossEntropyLovaszLoss(class_weights=[1.0, 2, 3, 4, 5])(logits, target)
    weights = torch.arange(1, 6, dtype=torch.float64)
    found = CrossEntropyLovaszLoss(class_weights=weights)(logits, target)
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
        ("CLASSES", 3, "0 to 4"),
        ("CLASSES", True, "0 to 4"),
        ("CLASSES", [True], "0 to 4"),
        ("METHOD", "sorted", '"binned" or "exact"'),
        ("TVERSKY_ALPHA", -0.5, "not below 0"),
        ("TVERSKY_BETA", float("nan"), "not below 0"),
        ("NUM_BINS", 0, "positive"),
        ("IMPL", "cuda", "auto, torch, numba, triton"),
        ("CLASS_WEIGHTS", [1.0, 2.0], "5 classes"),
        ("CLASS_WEIGHTS", [1.0, 1.0, 1.0, 1.0, -1.0], "not below 0"),
        ("CLASS_WEIGHTS", ["a"] * 5, "one number"),
        ("CLASS_WEIGHTS", [0.0] * 5, "not all 0"),
    ],
)
def test_a_value_that_cannot_be_is_a_config_error_that_names_key_and_value(key, value, expected):
    with pytest.raises(ConfigError) as error:
        build_sem_seg_loss(config(**{key: value}))
    assert f"MODEL.SEM_SEG_HEAD.LOSS.{key} is {value!r}, expected" in str(error.value)
    assert expected in str(error.value)


def test_only_the_lovasz_loss_can_be_sorted():
    with pytest.raises(ConfigError, match=r"METHOD is 'exact', .* not the dice loss"):
        build_sem_seg_loss(config(NAME="CrossEntropyDiceLoss", METHOD="exact"))


def test_a_global_batch_cannot_be_sorted():
    with pytest.raises(ConfigError, match=r'GLOBAL_BATCH .* "exact"'):
        build_sem_seg_loss(config(GLOBAL_BATCH=True, METHOD="exact"))


def test_a_global_batch_of_a_single_process_is_its_own_batch():
    logits, target = make()
    alone = build_sem_seg_loss(config(GLOBAL_BATCH=True))(logits, target)
    assert alone == build_sem_seg_loss(config())(logits, target)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.0, 1.0]])
def test_a_global_batch_has_the_gradients_of_all_processes(weights, second_process):
    logits, target = make()
    options = {"class_weights": weights}
    expected = sum(cross_entropy_lovasz(logits, target, class_weights=weights))
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    for global_batch, factor in ((False, 1), (True, second_process[1])):
        losses = CrossEntropyLovaszLoss(**options, global_batch=global_batch)(logits, target)
        difference = gradient(losses, logits) - factor * expected_gradient
        assert difference.norm() < 2e-2 * expected_gradient.norm()


def test_the_defaults_of_the_loss_are_those_of_the_config():
    loss, configured = CrossEntropyLovaszLoss(), build_sem_seg_loss(config())
    assert loss.options == configured.options
    for name in ("lovasz_start_iter", "lovasz_ramp_iters", "method", "global_batch"):
        assert getattr(loss, name) == getattr(configured, name)


def test_the_binned_loss_never_upsamples_the_logits(monkeypatch):
    monkeypatch.setattr(F, "interpolate", lambda *_, **__: pytest.fail("upsampled"))
    CrossEntropyLovaszLoss()(*make())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("CLASSES", value) for value in ("present", "all", [0], [4])],
        ("NUM_BINS", 1),
        ("CE_WEIGHT", 0.0),
    ],
)
def test_a_value_at_the_border_of_its_range_will_do(key, value):
    assert getattr(build_sem_seg_loss(config(**{key: value})).options, key.lower()) == value
