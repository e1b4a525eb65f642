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
