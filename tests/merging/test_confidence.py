import pytest
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from panoptic_lovasz.merging import HeadLogits
from panoptic_lovasz.merging.confidence import instance_confidence, stuff_confidence


@pytest.mark.parametrize("classes", [1, 4, 5, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_confidence_of_stuff_is_the_largest_softmax_probability(classes, dtype):
    logits = (3 * torch.randn(classes, 10, 12)).to(dtype)
    full = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    expected = sem_seg_postprocess(full, (37, 45), 60, 50).float().softmax(dim=0).amax(dim=0)
    found = stuff_confidence(HeadLogits(logits, 4, (37, 45), (60, 50)))
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-5)


def test_the_confidence_of_an_instance_is_its_score_times_the_probability_of_its_mask():
    instances = Instances((40, 50))
    boxes = torch.tensor([[5.0, 5.0, 30.0, 30.0], [0.0, 0.0, 9.0, 9.0], [10.5, 8.0, 45.0, 39.0]])
    instances.pred_boxes, instances.scores = Boxes(boxes), torch.tensor([0.6, 0.5, 0.9])
    masks = torch.rand(3, 28, 28)
    order, accepted = torch.tensor([2, 0, 1]), torch.tensor([True, True, False])
    owner = torch.zeros(40, 50, dtype=torch.int32)
    owner[10:30, 12:40] = 1  # position in the order + 1
    owner[6:10, 8:20] = 2
    found = instance_confidence(instances, masks, owner, accepted, order)
    pasted, _ = _do_paste_mask(masks[:, None], boxes, 40, 50, skip_empty=False)
    expected = 0.9 * pasted[2] * (owner == 1) + 0.6 * pasted[0] * (owner == 2)
    assert torch.allclose(found, expected, atol=1e-6)
    assert found[20, 20] > 0 and found[7, 10] > 0


class _OnAGpu(torch.Tensor):
    """A tensor on the CPU that says that it is on a GPU, and refuses whatever waits for one."""

    WAITS = ("item", "tolist", "nonzero", "__bool__", "__int__", "__index__", "__float__", "cpu")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return _Device()
        if getattr(func, "__name__", "") in cls.WAITS:
            raise AssertionError(f"{func.__name__} waits for the device")
        return super().__torch_function__(func, types, args, kwargs or {})


class _Device:
    type = "cuda"


def test_on_a_gpu_nothing_waits_for_an_instance_and_the_values_are_those_of_the_cpu(monkeypatch):
    instances = Instances((40, 50))
    boxes = torch.tensor([[5.0, 5.0, 30.0, 30.0], [10.5, 8.0, 45.0, 39.0]])
    instances.pred_boxes, instances.scores = Boxes(boxes), torch.tensor([0.6, 0.9])
    masks, order = torch.rand(2, 28, 28), torch.tensor([1, 0])
    accepted = torch.tensor([True, True])
    owner = torch.zeros(40, 50, dtype=torch.int32)
    owner[10:30, 12:40], owner[6:10, 8:20] = 1, 2
    expected = instance_confidence(instances, masks, owner, accepted, order)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    found = instance_confidence(
        instances, masks, owner.as_subclass(_OnAGpu), accepted.as_subclass(_OnAGpu), order
    )
    assert torch.allclose(found.as_subclass(torch.Tensor), expected, atol=1e-6)
    with pytest.raises(AssertionError, match="waits for the device"):
        accepted.as_subclass(_OnAGpu).nonzero()
