"""Crisp text on pictures: label chips that do not collide, titles and a legend."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .fonts import drawable, font_for
from .palette import text_color

__all__ = ["Label", "draw_labels", "font_size_for", "legend_strip", "title_bar"]

_PAPER = (250, 250, 250)
_INK = (28, 28, 32)
# Places for labels are searched on a grid with about this many cells along the image's long side.
_GRID = 240
# A label farther from a small segment than this many text heights would point at something else.
_REACH = 0.8


class Label(NamedTuple):
    """Text for one segment, drawn on a chip of the segment's color."""

    text: str
    color: tuple[int, int, int]
    segment: int  # position of the segment in the index map
    isthing: bool


def font_size_for(height: int, width: int) -> int:
    """Text height in pixels that reads well on a picture of this size."""
    return max(12, round(0.0155 * (height * width) ** 0.5))


def draw_labels(
    canvas: np.ndarray, index: np.ndarray, labels: list[Label], size: int
) -> list[tuple[Label, tuple[int, int, int, int]]]:
    """Write each label on or beside its segment, in place; those without room are left out.

    A label that fits goes inside its segment, away from other objects; a small segment keeps its
    pixels visible and gets its label just beside it. Labels never overlap. Earlier ones in the list
    choose first.

    Args:
        canvas: uint8 (H, W, 3) RGB image to draw on.
        index: integer (H', W') map, the position of each pixel's segment; the same picture as
            the canvas at any scale.
        labels: what to write.
        size: font size in pixels.

    Returns:
        The labels that found a place, each with its box (x0, y0, x1, y1) on the canvas.
    """
    height, width = canvas.shape[:2]
    step = max(1, max(height, width) // _GRID)
    rows = (np.arange(step // 2, height, step) * index.shape[0]) // height
    cols = (np.arange(step // 2, width, step) * index.shape[1]) // width
    places = _Places(index[rows[:, None], cols], {x.segment for x in labels if x.isthing}, step)
    drawn = []
    for label in labels:
        chip = _chip(label.text, tuple(label.color), size)
        corner = places.take(label.segment, chip.height, chip.width)
        if corner is None:
            continue
        y = min(corner[0], height - chip.height)
        x = min(corner[1], width - chip.width)
        if y >= 0 and x >= 0:
            _paste(canvas, chip, y, x)
            drawn.append((label, (x, y, x + chip.width, y + chip.height)))
    return drawn


def title_bar(width: int, text: str, size: int) -> np.ndarray:
    """A strip (H, width, 3) with a centered title, shortened to fit."""
    text = drawable(text)
    font = font_for(text, size, bold=True)
    while text and font.getlength(text) > width - size:
        text = text[:-2] + "…" if len(text) > 2 else ""
    bar = Image.new("RGB", (width, round(2 * size)), _PAPER)
    ImageDraw.Draw(bar).text((width / 2, size), text, fill=_INK, font=font, anchor="mm")
    return np.asarray(bar)


def legend_strip(width: int, entries: list[tuple[str, tuple]], size: int) -> np.ndarray:
    """A strip (H, width, 3) with a swatch and a name for each entry, in as many rows as needed."""
    entries = [(drawable(text), color) for text, color in entries]
    fonts = [font_for(text, size) for text, _ in entries]
    swatch, gap, row_height = round(1.1 * size), round(0.5 * size), round(1.9 * size)
    x, y, spots = gap, gap, []
    for (text, _), font in zip(entries, fonts, strict=True):
        advance = swatch + gap + round(font.getlength(text)) + 3 * gap
        if x > gap and x + advance > width:
            x, y = gap, y + row_height
        spots.append((x, y))
        x += advance
    strip = Image.new("RGB", (width, y + row_height if entries else 0), _PAPER)
    draw = ImageDraw.Draw(strip)
    for (text, color), font, (x, y) in zip(entries, fonts, spots, strict=True):
        middle = y + (row_height - gap) / 2
        box = (x, middle - swatch / 2, x + swatch, middle + swatch / 2)
        draw.rounded_rectangle(box, radius=swatch // 5, fill=tuple(int(c) for c in color))
        draw.text((x + swatch + gap, middle), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(strip)


class _Places:
    """Which places on a coarse grid are still free, and which of them suits a segment best."""

    def __init__(self, index: np.ndarray, things: set[int], step: int):
        self.index, self.step = index, step
        self.on_thing = np.isin(index, list(things)).astype(np.float32)
        self.taken = np.zeros(index.shape, np.float32)

    def take(self, segment: int, height: int, width: int) -> tuple[int, int] | None:
        """Top left corner, in canvas pixels, of the best free place; marks it as taken."""
        # chip size on the grid; one cell of air around it
        h, w = -(-height // self.step) + 1, -(-width // self.step) + 1
        rows, cols = self.index.shape
        if h > rows or w > cols:
            return None
        own = (self.index == segment).astype(np.float32)
        if not own.any():
            return None
        cost = self._cost(own, h, w)
        best = np.unravel_index(int(cost.argmin()), cost.shape)
        if not np.isfinite(cost[best]):
            return None
        y, x = int(best[0]), int(best[1])
        self.taken[y : y + h, x : x + w] = 1
        return y * self.step + self.step // 2, x * self.step + self.step // 2

    def _cost(self, own: np.ndarray, h: int, w: int) -> np.ndarray:
        """Cost of each top left corner (rows - h + 1, cols - w + 1); infinite where impossible."""
        inside = _window_mean(own, h, w)
        others = _window_mean(self.on_thing * (1 - own), h, w)
        if own.sum() >= 4 * h * w and inside.max() > 0.6:
            # the label fits: deep inside the largest part, off the objects in front of it
            part = _largest_component(own)
            depth = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
            center = depth[h // 2 : h // 2 + inside.shape[0], w // 2 : w // 2 + inside.shape[1]]
            cost = (1 - inside) + others - 0.5 * center / depth.max()
            cost[inside < 0.3] = np.inf
        else:
            # beside the segment, close to it, hiding neither it nor other objects
            away = cv2.distanceTransform((own == 0).astype(np.uint8), cv2.DIST_L2, 3)
            near = -_window_max(-away, h, w)
            cost = 2 * inside + 3 * others + near / h
            cost += 0.02 * np.arange(cost.shape[0])[:, None] / h  # rather above than below
            cost[(near > _REACH * h) | (others > 0.3)] = np.inf
        cost[_window_mean(self.taken, h, w) > 0] = np.inf
        return cost


def _window_mean(values: np.ndarray, h: int, w: int) -> np.ndarray:
    """Mean over every h×w window that lies fully inside."""
    sums = cv2.integral(values)
    return (sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]) / (h * w)


def _window_max(values: np.ndarray, h: int, w: int) -> np.ndarray:
    """Maximum over every h×w window that lies fully inside."""
    highest = cv2.dilate(values, np.ones((h, w), np.uint8), anchor=(0, 0))
    return highest[: values.shape[0] - h + 1, : values.shape[1] - w + 1]


def _largest_component(mask: np.ndarray) -> np.ndarray:
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return (components == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)


@lru_cache(maxsize=1024)
def _chip(text: str, color: tuple[int, int, int], size: int) -> Image.Image:
    text = drawable(text)
    font = font_for(text, size)
    pad = max(2, round(0.22 * size))
    width = round(font.getlength(text)) + 2 * pad + 1
    chip = Image.new("RGBA", (width, round(1.15 * size) + 2 * pad), (0, 0, 0, 0))
    draw = ImageDraw.Draw(chip)
    box = (0, 0, chip.width - 1, chip.height - 1)
    draw.rounded_rectangle(box, radius=pad, fill=(*color, 225), outline=(255, 255, 255, 150))
    draw.text((width / 2, chip.height / 2), text, fill=text_color(color), font=font, anchor="mm")
    return chip


def _paste(canvas: np.ndarray, chip: Image.Image, y: int, x: int) -> None:
    place = canvas[y : y + chip.height, x : x + chip.width]
    below = Image.fromarray(place).convert("RGBA")
    place[:] = np.asarray(Image.alpha_composite(below, chip).convert("RGB"))
