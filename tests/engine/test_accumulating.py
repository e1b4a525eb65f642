"""Steps of several batches against the same images as one large batch."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from panoptic_lovasz.engine.accumulating import run_accumulated_step
from panoptic_lovasz.engine.stopping import LossWatch
from panoptic_lovasz.errors import NonFiniteLossError
from panoptic_lovasz.modeling.losses import CrossEntropyLoss, CrossEntropyLovaszLoss

CLASSES = 3


class _Network(nn.Module):
    """A semantic network of one layer, with the head's name and loss of the real one."""

    def __init__(self, loss):
        super().__init__()
        self.layer = nn.Conv2d(1, CLASSES, 1).double()
        self.sem_seg_head = SimpleNamespace(loss=loss)

    def forward(self, batch):
        labels = torch.stack([item["sem_seg"] for item in batch])
        logits = self.layer(torch.stack([item["image"] for item in batch]))
        return self.sem_seg_head.loss(logits, labels)


def _cross_entropy(**options):
    return CrossEntropyLoss(scale_factor=1, ignore_index=255, **options)


def _images(count):
    """Images of which ever more pixels have no label; the first has none at all."""
    images = []
    for i in range(count):
        labels = torch.randint(CLASSES, (4, 4))
        labels.view(-1)[2 * i :] = 255
        images.append({"image": torch.randn(1, 4, 4).double(), "sem_seg": labels})
    return images


def _batches(images, size):
    return itertools.cycle(images[i : i + size] for i in range(0, len(images), size))


def _sgd(parameters, clip=False):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    clipping.ENABLED, clipping.CLIP_TYPE, clipping.CLIP_VALUE = clip, "norm", 0.01
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(parameters, lr=0.5, momentum=0.9)


def _trained(batches, num_batches=1, loss=None, steps=3, clip=False, scaler=None):
    """The network after some steps, from the same weights, and what was logged."""
    torch.manual_seed(1)
    network = _Network(_cross_entropy() if loss is None else loss)
    optimizer = _sgd(network.parameters(), clip)
    if scaler is None:
        trainer = SimpleTrainer(network, batches, optimizer)
    else:
        trainer = AMPTrainer(network, batches, optimizer, scaler)
    with EventStorage() as storage:
        for _ in range(steps):
            if num_batches == 1:
                trainer.run_step()
            else:
                run_accumulated_step(trainer, num_batches)
    return network, storage.history("total_loss").latest()


def _assert_equal(a, b, tolerance=1e-6):
    (network_a, loss_a), (network_b, loss_b) = a, b
    assert loss_a == pytest.approx(loss_b, rel=tolerance)
    torch.testing.assert_close(network_a.state_dict(), network_b.state_dict(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 5.0]])
def test_cross_entropy_is_that_of_the_large_batch_whatever_share_of_pixels_has_labels(
    clip, weights
):
    images = _images(6)
    loss = _cross_entropy(class_weights=weights)
    large = _trained(_batches(images, 6), loss=loss, clip=clip)
    small = _trained(_batches(images, 2), 3, loss=loss, clip=clip)
    _assert_equal(small, large)


def test_a_step_without_any_label_changes_nothing():
    images = [{"image": torch.ones(1, 4, 4).double(), "sem_seg": torch.full((4, 4), 255)}] * 2
    network, loss = _trained(_batches(images, 1), 2)
    torch.manual_seed(1)
    assert loss == 0
    untrained = _Network(None).state_dict()
    torch.testing.assert_close(network.state_dict(), untrained, rtol=0, atol=0)


def test_the_jaccard_index_is_that_of_each_batch():
    images = _images(4)[1:3]
    loss = CrossEntropyLovaszLoss(scale_factor=1, ce_weight=0.0)
    _, accumulated = _trained(_batches(images, 1), 2, loss=loss, steps=1)
    single = [_trained(_batches([image], 1), loss=loss, steps=1)[1] for image in images]
    assert accumulated == pytest.approx(sum(single) / 2)


def test_mixed_precision_unscales_and_clips_the_whole_gradient_once():
    images = _images(6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain = _trained(_batches(images, 2), 3, clip=True)
    _assert_equal(_trained(_batches(images, 2), 3, clip=True, scaler=scaler), plain)


def test_mixed_precision_skips_a_step_of_which_one_batch_overflows():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
    network = _Network(_cross_entropy())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = _images(4)[2:]
    trainer = AMPTrainer(network, _batches(images, 1), _sgd(network.parameters()), scaler)
    hook = network.layer.weight.register_hook(_infinite_once())
    with EventStorage():
        run_accumulated_step(trainer, 2)
        torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
        assert scaler.get_scale() == 2.0**9
        hook.remove()
        run_accumulated_step(trainer, 2)
    assert scaler.get_scale() == 2.0**10
    assert not torch.equal(network.layer.weight, before["layer.weight"])


def _infinite_once():
    factors = itertools.chain([float("inf")], itertools.repeat(1.0))
    return lambda gradient: gradient * next(factors)


def test_processes_exchange_gradients_once_a_step(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        images = _images(6)
        torch.manual_seed(1)
        model = DistributedDataParallel(_Network(_cross_entropy()))
        exchanged = []

        def count(state, bucket):
            exchanged.append(bucket.index())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        model.register_comm_hook(None, count)
        trainer = SimpleTrainer(model, _batches(images, 2), _sgd(model.parameters()))
        with EventStorage():
            run_accumulated_step(trainer, 3)
            assert exchanged == [0]
            run_accumulated_step(trainer, 3)
        assert exchanged == [0, 0]
        large, _ = _trained(_batches(images, 6), steps=2)
        state = model.module.state_dict()
        torch.testing.assert_close(state, large.state_dict(), rtol=0, atol=1e-6)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_loss_that_is_not_finite_is_reported_with_the_images_of_its_own_batch(bad, tmp_path):
    images = [dict(item, file_name=f"{i}.png") for i, item in enumerate(_images(6))]
    images[2 * bad]["image"] = images[2 * bad]["image"] * torch.nan
    images[2 * bad]["sem_seg"] = torch.zeros(4, 4, dtype=torch.int64)
    network = _Network(_cross_entropy())
    watch = LossWatch(network, tmp_path)
    trainer = SimpleTrainer(network, _batches(images, 2), _sgd(network.parameters()))
    with EventStorage(), watch.step(7):
        run_accumulated_step(trainer, 3)
    assert watch.failed
    text = watch.describe(7)
    assert f"loss_sem_seg_ce is nan; images {2 * bad}.png, {2 * bad + 1}.png." in text
    dump = torch.load(tmp_path / "iteration_0000007_rank_0.pth", weights_only=False)
    assert [item["file_name"] for item in dump["batch"]] == [f"{2 * bad}.png", f"{2 * bad + 1}.png"]


def test_a_network_that_gives_up_is_reported_with_the_batch_that_it_had(tmp_path):
    images = [dict(item, file_name=f"{i}.png") for i, item in enumerate(_images(4))]
    network = _Network(_cross_entropy())
    watch = LossWatch(network)
    calls = itertools.count()

    def give_up(module, inputs):
        if next(calls) == 1:
            raise FloatingPointError("Predicted boxes are NaN")

    network.register_forward_pre_hook(give_up)
    trainer = SimpleTrainer(network, _batches(images, 2), _sgd(network.parameters()))
    with (
        EventStorage(),
        pytest.raises(NonFiniteLossError, match=r"output is NaN .* images 2.png, 3.png"),
        watch.step(0),
    ):
        run_accumulated_step(trainer, 2)


def test_a_trained_semantic_fpn_is_that_of_the_large_batch(make_trainer, tmp_path):
    options = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "DATASETS.TEST", ()]
    options += ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", ""]  # without batch statistics
    options += ["MODEL.SEM_SEG_HEAD.LOSS.NAME", "CrossEntropyLoss", "SOLVER.MAX_ITER", 2]
    options += ["SOLVER.BASE_LR", 0.05, "SOLVER.WARMUP_ITERS", 0]
    weights = []
    for num_batches, size in ((1, 6), (3, 2)):
        batch = ["SOLVER.ACCUMULATE_STEPS", num_batches, "SOLVER.IMS_PER_BATCH", size]
        torch.manual_seed(1)
        trainer = make_trainer(tmp_path, *options, *batch)
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        trainer.train()
        weights.append(trainer.model.state_dict())
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)
    moved = [(weights[0][k] - v).abs().max() for k, v in before.items() if v.is_floating_point()]
    assert max(moved) > 1e-3
