import pytest
import torch

from panoptic_lovasz.losses import cross_entropy_lovasz, labels

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Copy:
    """Stands for the event after an asynchronous copy from a CUDA device."""

    def __init__(self, finished):
        self.finished = finished

    def query(self):
        return self.finished

    def synchronize(self):
        self.finished = True


@pytest.fixture
def pending():
    yield labels._pending
    labels._pending.clear()


def test_a_range_of_labels_is_looked_at_once_it_has_arrived(pending):
    copy = Copy(finished=False)
    pending.append((copy, torch.tensor([0, 77]), 54, 255))
    labels.raise_pending()
    copy.finished = True
    with pytest.raises(ValueError, match=r"label 77 .* 0 to 53 .* 255"):
        labels.raise_pending()
    labels.raise_pending()  # reported once


def test_a_range_of_labels_can_be_waited_for(pending):
    pending.append((Copy(finished=False), torch.tensor([0, 53]), 54, 255))
    pending.append((Copy(finished=False), torch.tensor([-1, 3]), 54, 255))
    with pytest.raises(ValueError, match=r"label -1 "):
        labels.raise_pending(wait=True)
    assert not pending


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_forward_and_backward_report_what_has_arrived(pending, where):
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    if where == "backward":
        losses = cross_entropy_lovasz(logits, target)
    pending.append((Copy(finished=True), torch.tensor([0, 9]), 3, 255))
    with pytest.raises(ValueError, match="label 9 "):
        if where == "forward":
            cross_entropy_lovasz(logits, target)
        else:
            sum(losses).backward()


def test_labels_that_are_valid_pass():
    target = torch.tensor([[0, 1, 255, 2]])
    labels.check_labels(target, 3, 255)
    labels.check_labels(target.to(torch.uint8), 3, 255)
    labels.check_labels(target - 1, 256, -1)
    labels.check_labels(target[:0], 3, 255)
    labels.check_labels(torch.tensor([0, 255]), 1, 255)


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
    with pytest.raises(ValueError, match=f"label {label} "):
        losses = cross_entropy_lovasz(logits, target)
        sum(losses).backward()
        labels.raise_pending(wait=True)
    target[0, 0, 0] = 255
    expected = cross_entropy_lovasz(logits.cpu(), target.cpu())
    found = cross_entropy_lovasz(logits, target)
    labels.raise_pending(wait=True)
    assert [x.item() for x in found] == pytest.approx([x.item() for x in expected])
