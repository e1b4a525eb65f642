"""Whether a device can be computed on."""

from __future__ import annotations

import re

import torch

from .errors import ConfigError

__all__ = ["choose_device", "usable_device"]


def choose_device(
    wanted: str | torch.device | None,
    configured: str,
    hint: str = "device='cpu', or --device cpu, predicts on the CPU",
) -> str:
    """The wanted device; by default the configured one, or the CPU where that is CUDA without one.

    Args:
        wanted, configured: the devices.
        hint: what to do instead, for the message.

    Raises:
        ConfigError: if it is not there.
    """
    if wanted is not None:
        return usable_device(wanted, "device", hint)
    if configured.startswith("cuda") and not torch.cuda.is_available():
        return "cpu"
    return usable_device(configured, "MODEL.DEVICE", hint)


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
