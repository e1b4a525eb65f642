"""Whether a device can be computed on."""

from __future__ import annotations

import re

import torch

from .errors import ConfigError

__all__ = ["usable_device"]


def usable_device(device: str | torch.device, field: str, hint: str) -> str:
    """The name of a device, such as "cuda:1", on which a tensor could be made and read.

    Args:
        device: the device.
        field: the key or argument that it comes from, for the message.
        hint: what to do instead, for the message.

    Raises:
        ConfigError: if it is not there, has no values ("meta"), or is not a device.
    """
    try:
        torch.zeros(1, device=(found := torch.device(device))).item()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = re.split(r"\. |\n", str(error))[0]
        raise ConfigError(
            f"{field} is {str(device)!r}, which cannot be used here: {reason}; {hint}"
        ) from error
    return str(found)
