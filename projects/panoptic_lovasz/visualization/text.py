"""Names as matplotlib shall show them."""

from __future__ import annotations

__all__ = ["plot_text"]

_LONGEST = 60  # characters; a longer one would leave no room for the plot


def plot_text(text: str) -> str:
    """A text for matplotlib, to which what stands between two dollars is a formula."""
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return shown.replace("$", r"\$")
