"""timm, if it is installed, and only the models that it has itself."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType

from .errors import ConfigError

__all__ = ["require_timm"]


def require_timm(name: str, setting: str | None = None) -> ModuleType:
    """Import timm, which must have the model ``name``.

    Names that timm resolves elsewhere ("hf-hub:", "local-dir:") are refused, since what they stand
    for may be anything.

    Args:
        name: the model's name.
        setting: where the name comes from, "KEY is VALUE"; by default MODEL.TIMM.NAME.

    Raises:
        ConfigError: timm is not installed, or ``timm.list_models()`` has no such name.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"the model {name!r} is one of timm's, which is not installed: pip install timm"
        ) from error
    if name not in timm.list_models():
        without_tag = name.partition(".")[0]  # "resnet18.a1_in1k" names weights, too
        similar = difflib.get_close_matches(without_tag, timm.list_models(), n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        setting = setting or f"MODEL.TIMM.NAME is {name!r}"
        raise ConfigError(f"{setting}, expected one of timm.list_models(){hint}")
    return timm
