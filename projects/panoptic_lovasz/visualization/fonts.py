"""Fonts that have the letters of a text: names of classes are in every language."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawable", "figure_fonts", "font_for"]

logger = logging.getLogger(__name__)

FONT_VARIABLE = "PANOPTIC_LOVASZ_FONT"
_LONGEST = 60  # letters of a name that are drawn


def font_for(text: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font of a size in pixels that has all letters of a text that :func:`drawable` gave."""
    return _load(_file_with(_unusual(text)) or _default(bold), size)


def drawable(text: str) -> str:
    """The text on one line, at most 60 letters of it; those that no font has as ``\\u6c7d``.

    The first such text is told in a warning, which says how to name a font: by the environment
    variable PANOPTIC_LOVASZ_FONT.
    """
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    missing = _unusual(text)
    if _file_with(missing) is not None:
        return text
    _warn(text)
    return "".join(ascii(c)[1:-1] if c in missing else c for c in text)


@contextlib.contextmanager
def figure_fonts(figure: Figure) -> Iterator[None]:
    """Let a matplotlib figure that is saved in the block use fonts that have its letters."""
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.text import Text

    texts = list(figure.findobj(Text))
    for axes in figure.axes:
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    families = list(matplotlib.rcParams["font.family"])
    for file in dict.fromkeys(_file_with(_unusual(t.get_text())) for t in texts):
        if file is None:
            _warn(next(t.get_text() for t in texts if _file_with(_unusual(t.get_text())) is None))
        elif file != _default():
            font_manager.fontManager.addfont(file)
            families.append(font_manager.FontProperties(fname=file).get_name())
    for text in texts:
        text.set_fontfamily(families)
    with matplotlib.rc_context({"font.family": families}):  # of labels made when it is drawn
        yield


def _unusual(text: str) -> frozenset[str]:
    """The letters that the default font lacks."""
    if text.isascii():
        return frozenset()
    return frozenset(c for c in text if c.isprintable() and not c.isspace()) - _letters(_default())


@lru_cache(maxsize=1024)
def _file_with(letters: frozenset[str]) -> str | None:
    """The first font file that has some letters and the digits; None if none has."""
    if not letters:
        return _default()
    wanted = letters | set("0123456789")
    return next((file for file in _files() if wanted <= _letters(file)), None)


@lru_cache(maxsize=1)
def _files() -> list[str]:
    """The font that the user names, then those of the system, upright sans serifs first."""
    from matplotlib import font_manager

    def order(file: str) -> tuple[bool, bool, str]:
        name = os.path.basename(file).lower()
        styles = ("bold", "italic", "oblique", "black", "thin", "light")
        return any(style in name for style in styles), "serif" in name or "mono" in name, name

    named = os.environ.get(FONT_VARIABLE)
    return [*([named] if named else []), *sorted(font_manager.findSystemFonts(), key=order)]


@cache
def _letters(file: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):  # no font, or of a kind that cannot be scaled
        return frozenset()


def _default(bold: bool = False) -> str:
    # DejaVu comes with matplotlib, which Detectron2 needs; OpenCV's own strokes are hard to read
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name)


@lru_cache(maxsize=64)
def _load(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


_told = False  # whether the warning was given


def _warn(text: str) -> None:
    global _told
    if not _told:
        _told = True
        logger.warning(
            f"no font here has the letters of {text!r}, and perhaps of other names: install one "
            f"(such as Noto Sans CJK), or name a file by the environment variable {FONT_VARIABLE}"
        )
