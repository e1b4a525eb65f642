"""Drawing is a courtesy: what goes wrong in it is told once and stops nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["tolerate_errors"]

logger = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()


@contextlib.contextmanager
def tolerate_errors(what: str) -> Iterator[None]:
    """Turn an exception of the block into one warning, however often it occurs.

    Args:
        what: what the block makes, for the message: "the curves".
    """
    try:
        yield
    except Exception as error:
        key = (what, type(error).__name__)
        if key not in _told:
            _told.add(key)
            logger.warning(f"{what} could not be made; nothing else depends on it", exc_info=error)
