"""Names in scripts that the default font lacks."""

import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from panoptic_lovasz.reporting.plots import class_bars, save_png
from panoptic_lovasz.visualization import draw_panoptic, fonts
from panoptic_lovasz.visualization.labels import legend_strip

CAR, ROAD = "汽车", "道路"


@pytest.fixture(autouse=True)
def _forget():
    def forget():
        fonts._told = False
        for cached in (fonts._files, fonts._file_with):
            cached.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def no_font(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    monkeypatch.delenv(fonts.FONT_VARIABLE, raising=False)


@pytest.fixture
def chinese_font(tmp_path, no_font, monkeypatch):
    """A font file that has digits and the letters of CAR, each a box of another width."""
    letters = ["0123456789"[i] for i in range(10)] + list(CAR) + [" "]
    names = [".notdef", *(f"glyph{i}" for i in range(len(letters)))]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): names[i + 1] for i, c in enumerate(letters)})
    glyphs = {}
    for i, name in enumerate(names):
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for point in ((50, 700), (100 + 40 * i, 700), (100 + 40 * i, 0)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (1000, 50) for name in names})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "boxes.ttf")
    monkeypatch.setenv(fonts.FONT_VARIABLE, str(tmp_path / "boxes.ttf"))
    return tmp_path / "boxes.ttf"


def picture(name):
    ids = np.zeros((200, 200), np.int32)
    ids[50:150, 50:150] = 1
    metadata = {"thing_classes": [name], "stuff_classes": ["things"]}
    segments = [{"id": 1, "category_id": 0, "isthing": True}]
    return draw_panoptic(
        np.full((200, 200, 3), 128, np.uint8), ids, segments, metadata, legend=True
    )


def test_names_that_no_font_has_are_told_apart_and_told_once(no_font, caplog):
    assert fonts.drawable(f"{CAR} 1") == r"\u6c7d\u8f66 1"
    first, second = picture(CAR), picture(ROAD)
    assert first.shape != second.shape or (first != second).any()
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert CAR in caplog.text and fonts.FONT_VARIABLE in caplog.text


def test_a_named_font_that_has_the_letters_draws_them(chinese_font, caplog):
    assert fonts.drawable(CAR) == CAR
    assert fonts.font_for(CAR, 20).path == str(chinese_font)
    strip = legend_strip(200, [(CAR, (1, 2, 3))], 20)
    assert (strip != legend_strip(200, [("", (1, 2, 3))], 20)).any()
    assert not caplog.records


def test_plots_take_the_font_too(chinese_font, tmp_path, caplog):
    rows = [{"name": CAR, "isthing": True, "PQ": 50.0}, {"name": "Zürich", "isthing": 0, "PQ": 1}]
    figure = class_bars("PQ", rows, "PQ")
    with fonts.figure_fonts(figure):
        families = figure.axes[0].get_yticklabels()[0].get_fontfamily()
    assert "Boxes" in families
    save_png(figure, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size
    assert not [r for r in caplog.records if "missing" in r.getMessage()]


def test_latin_greek_and_cyrillic_need_no_other_font(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: 1 / 0)
    for text in ("Straße", "αυτοκίνητο", "машина", "car ×3"):
        assert fonts.drawable(text) == text


def test_long_names_and_control_characters_are_made_fit(no_font):
    assert fonts.drawable("a\nb\x1b[31m\0") == "a b [31m "
    assert len(fonts.drawable("x" * 10_000)) == 60
    assert picture("x" * 10_000 + "\n").any()
