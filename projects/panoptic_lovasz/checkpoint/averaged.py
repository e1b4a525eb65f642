"""The averaged weights that a checkpoint holds beside the trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

__all__ = ["AVERAGED_KEY", "averaged_weights"]

AVERAGED_KEY = "ema"  # the state of torch.optim.swa_utils.AveragedModel, in a checkpoint


def averaged_weights(loaded: Any, file: str | Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint by the names of the trained ones.

    Args:
        loaded: what was read from the file.
        file: for messages.

    Raises:
        CheckpointError: if there are none.
    """
    state = loaded.get(AVERAGED_KEY) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(
            f"weights {file} have no averaged weights ('{AVERAGED_KEY}'), which TEST.EMA True asks "
            "for; training writes them with SOLVER.EMA.ENABLED True"
        )
    prefix = "module."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
