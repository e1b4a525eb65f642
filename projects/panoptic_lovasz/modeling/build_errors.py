"""What of a config is wrong when the network that it describes cannot be built."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from detectron2.config import CfgNode

from ..errors import ConfigError
from ..flat import flatten

__all__ = ["clear_build_errors"]


@contextlib.contextmanager
def clear_build_errors(cfg: CfgNode) -> Iterator[None]:
    """Turn what Detectron2 raises while it builds a network into a ConfigError of one line.

    It names the keys that hold the name over which Detectron2 stumbled, if it was one.
    """
    try:
        yield
    except ConfigError:
        raise
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {str(error) or _place(error)}".split())
        name = error.args[0] if isinstance(error, KeyError) and error.args else None
        keys = [
            f"{key} {value!r}"
            for key, value in flatten(cfg.MODEL, "MODEL.").items()
            if isinstance(name, str)
            and (value == name or (isinstance(value, (list, tuple)) and name in value))
        ]
        where = f"; it is in {' and '.join(keys)}" if keys else ""
        raise ConfigError(
            f"the network that MODEL.* describes cannot be built: {reason}{where}"
        ) from error


def _place(error: Exception) -> str:
    """The line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.line} ({frame.filename}, line {frame.lineno})"
