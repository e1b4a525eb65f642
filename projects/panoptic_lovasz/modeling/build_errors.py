"""What of a config is wrong when the network that it describes cannot be built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from ..errors import ConfigError

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
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        name = error.args[0] if isinstance(error, KeyError) and error.args else None
        keys = [f"{key} {value!r}" for key, value in _with_name(cfg.MODEL, name, "MODEL.")]
        where = f"; it is in {' and '.join(keys)}" if keys else ""
        raise ConfigError(
            f"the network that MODEL.* describes cannot be built: {reason}{where}"
        ) from error


def _with_name(tree: CfgNode, name: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Keys whose value is a name, or a list with it."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _with_name(value, name, f"{prefix}{key}.")
        elif isinstance(name, str) and (value == name or (_is_list(value) and name in value)):
            yield prefix + key, value


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
