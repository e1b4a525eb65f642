from detectron2.engine import SimpleTrainer
from torch import nn

from panoptic_lovasz.compat import reset_data_loader


class _MainBranchTrainer:
    """What Detectron2's main branch has in place of an iterator made at once."""

    def __init__(self, loader):
        self.loader = loader

    def reset_data_loader(self, data_loader_builder):
        self.loader = data_loader_builder()


def test_a_trainer_of_either_version_draws_its_batches_from_the_new_loader():
    trainer = _MainBranchTrainer([1, 2])
    reset_data_loader(trainer, [3, 4])
    assert trainer.loader == [3, 4]
    trainer = SimpleTrainer(nn.Identity(), [1, 2], None)
    reset_data_loader(trainer, [3, 4])
    assert (next(trainer._data_loader_iter), trainer.data_loader) == (3, [3, 4])
