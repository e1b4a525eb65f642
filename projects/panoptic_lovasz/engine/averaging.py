"""Averaged weights: an exponential moving average of those after every iteration."""

from __future__ import annotations

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["AverageWeights"]


class AverageWeights(HookBase):
    """Averages parameters and buffers after every iteration, alike in all processes.

    The average starts with the weights that the training starts with. Iteration n weighs them by
    min(decay, (1 + n) / (10 + n)), so that a short training is not dominated by its start.

    Attributes:
        averaged: the model with the averaged weights, to be saved with each checkpoint.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: the network that is trained, not wrapped for parallel training.
            decay: weight of the average, in [0, 1), where the rest is that of the new weights.
        """
        self._model = model
        self._decay = decay
        self.averaged = AveragedModel(model, use_buffers=True).requires_grad_(False).eval()

    def before_train(self) -> None:
        """Start the average, unless it was resumed."""
        if self.averaged.n_averaged == 0:
            self.averaged.update_parameters(self._model)

    def after_step(self) -> None:
        """Add the weights of this iteration."""
        n = self.averaged.n_averaged.item()
        self.averaged.multi_avg_fn = get_ema_multi_avg_fn(min(self._decay, (1 + n) / (10 + n)))
        self.averaged.update_parameters(self._model)
