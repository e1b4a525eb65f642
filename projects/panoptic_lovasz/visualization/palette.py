"""Colors: one per class, told apart at a glance, and shades of it for the class's instances."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["class_colors", "class_names", "distinct_colors", "shade", "text_color"]

# Colors are compared and changed in OKLab (Ottosson 2020, https://bottosson.github.io/posts/oklab/),
# times 100, where equal distances look about equal and a change of lightness keeps the hue.
_LMS_FROM_RGB = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB_FROM_LMS = 100 * np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Lightness and chroma that generated colors are picked from: things are vivid, stuff is calmer, so
# that objects stand out from what they stand on.
_VIVID = ((54.0, 65.0, 76.0), (15.0, 20.0, 25.0))
_CALM = ((50.0, 62.0, 74.0, 86.0), (4.0, 7.5, 11.0))


def class_names(metadata: Any, isthing: bool) -> list[str]:
    """Names of the thing or the stuff classes of a ``Metadata`` or dict (empty if unknown)."""
    return list(_get(metadata, "thing_classes" if isthing else "stuff_classes"))


def class_colors(
    metadata: Any, num_things: int = 0, num_stuff: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """One RGB color per class: the data set's own where it has them, else a generated one.

    Args:
        metadata: Detectron2 ``Metadata``, or a dict, with any of ``thing_classes``,
            ``thing_colors``, ``stuff_classes``, ``stuff_colors``; or None.
        num_things, num_stuff: colors wanted at least, where the metadata declares fewer classes.

    Returns:
        Two uint8 arrays: (things, 3) and (stuff, 3).
    """
    num_things = max(num_things, len(class_names(metadata, True)))
    num_stuff = max(num_stuff, len(class_names(metadata, False)))
    things = _own_colors(metadata, "thing_colors", num_things)
    stuff = _own_colors(metadata, "stuff_colors", num_stuff)
    if things is None:
        taken = () if stuff is None else tuple(map(tuple, stuff.tolist()))
        things = distinct_colors(num_things, vivid=True, taken=taken)
    if stuff is None:
        stuff = distinct_colors(num_stuff, vivid=False, taken=tuple(map(tuple, things.tolist())))
    return things, stuff


@lru_cache(maxsize=32)
def distinct_colors(num: int, *, vivid: bool, taken: tuple = ()) -> np.ndarray:
    """Colors as far from each other, and from those taken, as a greedy search in OKLab gets.

    The search is that of Glasbey et al., "Colour displays for categorical images" (2007): each
    color in turn is the candidate farthest from all before it. The same arguments always give the
    same colors, and asking for more colors keeps the first ones.

    Returns:
        uint8 array (num, 3), RGB.
    """
    candidates = _candidates(*(_VIVID if vivid else _CALM))
    lab = _to_lab(candidates)
    if len(taken):
        distance = np.linalg.norm(lab[:, None] - _to_lab(np.array(taken))[None], axis=2).min(1)
    else:
        distance = -np.linalg.norm(lab - _to_lab(np.array([[228, 60, 50]])), axis=1)  # start at red
    picked = []
    for _ in range(min(num, len(candidates))):
        best = int(distance.argmax())
        picked.append(candidates[best])
        new = np.linalg.norm(lab - lab[best], axis=1)
        distance = new if len(picked) == 1 and not len(taken) else np.minimum(distance, new)
    return np.resize(np.array(picked, dtype=np.uint8), (num, 3))  # with hundreds, some come again


def shade(color: Sequence[int], index: int) -> np.ndarray:
    """The class's color for its instance number ``index``: same family, other lightness and hue.

    Number 0 keeps the color itself. Consecutive numbers are far apart (van der Corput sequence).

    Returns:
        uint8 array (3,), RGB.
    """
    if index == 0:
        return np.asarray(color, dtype=np.uint8)
    position = 2 * _van_der_corput(index + 1) - 1  # in (-1, 1); would be 0 for number 0
    lightness, a, b = _to_lab(np.asarray(color).reshape(1, 3))[0]
    room = 20.0  # of lightness, to either side
    lightness = np.clip(lightness, 30 + room, 95 - room) + room * position
    angle = np.deg2rad(14) * (2 * _van_der_corput(index + 1, base=3) - 1)
    turned = (a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle))
    return _to_rgb(np.array([[lightness, *turned]]))[0]


def text_color(background: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever reads better on the background.

    White up to a relative luminance of 0.28: the WCAG 2 formula's own crossing, 0.18, puts black on
    saturated red and blue, where white is easier to read.
    """
    linear = (np.asarray(background, dtype=np.float64) / 255) ** 2.2
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return (0, 0, 0) if luminance > 0.28 else (255, 255, 255)


def _get(metadata, key: str):
    # Metadata.get, unlike getattr, does not log or raise for a key that is not set
    return (metadata.get(key, None) if metadata is not None else None) or ()


def _own_colors(metadata, key: str, num: int) -> np.ndarray | None:
    colors = np.asarray(_get(metadata, key), dtype=np.uint8).reshape(-1, 3)
    return colors if len(colors) >= num and num else None


def _candidates(lightness, chroma) -> np.ndarray:
    hue = np.deg2rad(np.arange(0, 360, 6))
    grid = np.stack(np.meshgrid(lightness, chroma, hue, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = np.stack(
        [grid[:, 0], grid[:, 1] * np.cos(grid[:, 2]), grid[:, 1] * np.sin(grid[:, 2])], axis=1
    )
    rgb = _to_rgb(lab)
    in_gamut = np.linalg.norm(_to_lab(rgb) - lab, axis=1) < 3  # drop what sRGB has to clip hard
    return rgb[in_gamut]


def _to_lab(rgb) -> np.ndarray:
    srgb = np.asarray(rgb, dtype=np.float64).reshape(-1, 3) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LMS_FROM_RGB.T) @ _LAB_FROM_LMS.T


def _to_rgb(lab) -> np.ndarray:
    lms = np.linalg.solve(_LAB_FROM_LMS, np.asarray(lab, dtype=np.float64).T) ** 3
    linear = np.linalg.solve(_LMS_FROM_RGB, lms).T.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(srgb * 255).astype(np.uint8)


def _van_der_corput(index: int, base: int = 2) -> float:
    value, denominator = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        denominator *= base
        value += digit / denominator
    return value
