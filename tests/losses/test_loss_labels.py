import pytest
import torch

from panoptic_lovasz.errors import DatasetError, LabelError
from panoptic_lovasz.losses import (
    cross_entropy_lovasz,
    labels,
    lovasz_hinge,
    lovasz_sigmoid,
    lovasz_softmax,
)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class ChecksLater(torch.autograd.Function):
    """Identity whose backward pass has the labels checked, as the losses' has on a GPU."""

    @staticmethod
    def forward(ctx, x, extremes, done):
        ctx.extremes, ctx.done = extremes, done
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        labels.check_labels_later(ctx.extremes, 54, 255)
        ctx.done.append("check asked for")
        return gradient, None, None


@pytest.mark.parametrize(("extremes", "wrong"), [([0, 77], 77), ([-1, 3], -1)])
def test_a_bad_label_is_raised_by_its_own_backward_pass_once_all_of_that_is_under_way(
    extremes, wrong
):
    done = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda _: done.append("earlier layers"))
    loss = ChecksLater.apply(x, torch.tensor(extremes), done).sum()
    with pytest.raises(LabelError, match=rf"label {wrong} .* 0 to 53 .* 255"):
        loss.backward()
    assert done == ["check asked for", "earlier layers"]
    loss = ChecksLater.apply(x, torch.tensor([0, 53]), done).sum()
    loss.backward()  # the next batch has nothing to do with it


def test_a_label_error_is_one_of_the_data_and_a_value_error():
    with pytest.raises(LabelError) as error:
        cross_entropy_lovasz(torch.zeros(1, 3, 2, 2), torch.full((1, 8, 8), 9))
    assert isinstance(error.value, DatasetError) and isinstance(error.value, ValueError)


def test_labels_that_are_valid_pass():
    def check(target, num_classes, ignore_index):
        labels.check_labels(labels.label_range(target, ignore_index), num_classes, ignore_index)

    target = torch.tensor([[0, 1, 255, 2]])
    check(target, 3, 255)
    check(target.to(torch.uint8), 3, 255)
    check(target - 1, 256, -1)
    check(target[:0], 3, 255)
    check(torch.tensor([0, 255]), 1, 255)


def test_balancing_weights_make_every_class_that_occurs_weigh_the_same():
    target = torch.tensor([[0, 0, 2, 255], [2, 2, 2, -4]])
    assert labels.balancing_weights(target, 4, 255).tolist() == [0.5, 0, 0.25, 0]
    assert labels.balancing_weights(target, 4, 2).tolist() == [0.5, 0, 0, 0]


def test_present_classes_leave_out_ignored_labels_and_those_out_of_range():
    target = torch.tensor([[0, 2, 255, -3], [1, 7, 5, 5]])
    batch = labels.present_classes(target, 6, 255, 1)
    assert batch.dtype == torch.bool
    assert batch.tolist() == [[True, True, True, False, False, True]]
    images = labels.present_classes(target, 6, 5, 2)
    assert images.tolist() == [
        [True, False, True, False, False, False],
        [False, True, False, False, False, False],
    ]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("present", [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]),
        ("all", [[1 / 3] * 3, [1 / 3] * 3, [0, 0, 0]]),
        ([2, 0], [[0.5, 0, 0.5], [0.5, 0, 0.5], [0, 0, 0]]),
    ],
)
def test_shares_add_up_to_1_in_every_group_that_has_labels(classes, expected):
    present = torch.tensor([[True, True, False], [False, True, False], [False] * 3])
    shares = labels.class_shares(present, classes, None)
    assert torch.allclose(shares, torch.tensor(expected, dtype=torch.float64))


def test_shares_follow_the_class_weights():
    present = torch.tensor([[True, True, False], [False, False, True]])
    shares = labels.class_shares(present, "present", torch.tensor([1.0, 3.0, 0.0]))
    assert shares.tolist() == [[0.25, 0.75, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_class_weights_of_any_type_become_float32_without_gradients(dtype):
    given = torch.ones(3, dtype=dtype, requires_grad=dtype.is_floating_point)
    weights = labels.as_class_weights(given, 3, torch.device("cpu"))
    assert weights.dtype == torch.float32 and not weights.requires_grad
    assert weights.tolist() == [1, 1, 1]


@needs_cuda
@pytest.mark.parametrize("label", [-1, 3, 256])
def test_on_cuda_a_label_out_of_range_is_reported_without_harm_to_the_device(label):
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True, device="cuda")
    target = torch.zeros(1, 8, 8, dtype=torch.long, device="cuda")
    target[0, 0, 0] = label
    with pytest.raises(LabelError, match=f"label {label} "):
        sum(cross_entropy_lovasz(logits, target)).backward()
    with torch.no_grad(), pytest.raises(LabelError, match=f"label {label} "):
        cross_entropy_lovasz(logits, target)
    target[0, 0, 0] = 255
    expected = cross_entropy_lovasz(logits.cpu(), target.cpu())
    found = cross_entropy_lovasz(logits, target)
    sum(found).backward()
    # The softmax of a pixel may be rounded to the next step, of which a bin has 512.
    expected = pytest.approx([x.item() for x in expected], abs=2 / (1024 * 512))
    assert [x.item() for x in found] == expected


@pytest.mark.parametrize("ignore_index", [-100, -1, 255, 300])
@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.uint8, torch.int8, torch.int16, torch.int32),
        *(torch.uint16, torch.uint32, torch.uint64),
    ],
)
@pytest.mark.parametrize("method", ["binned", "exact"])
def test_an_ignore_index_that_the_labels_type_cannot_hold_is_not_a_class(
    ignore_index, dtype, method
):
    num_classes = 171 if dtype != torch.int8 else 120
    logits = torch.randn(1, num_classes, 4, 6)
    target = torch.full((1, 4, 6), ignore_index % 256 if ignore_index % 256 < num_classes else 3)
    target[:, 2:] = 1
    expected = lovasz_softmax(logits, target, ignore_index=ignore_index, method=method)
    narrow = lovasz_softmax(logits, target.to(dtype), ignore_index=ignore_index, method=method)
    assert narrow == expected


def test_a_negative_label_is_an_error_in_every_type():
    target = torch.zeros(1, 4, 4, dtype=torch.int8)
    target[0, 0, 0] = -1  # 255, the ignore_index, has the same bits
    for loss in (lovasz_softmax, lovasz_sigmoid, lovasz_hinge):
        logits = torch.randn(1, 3, 4, 4) if loss is lovasz_softmax else torch.randn(1, 4, 4)
        with pytest.raises(LabelError, match="label -1 "):
            loss(logits, target)
