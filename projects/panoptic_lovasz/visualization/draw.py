"""Pictures of panoptic segmentations, the same for predictions, ground truth and reports.

Detectron2's ``Visualizer`` can draw these too, but jitters colors at random, lets labels run into
each other and off the picture, and has no legend; and it draws polygons through matplotlib. What it
does well elsewhere (boxes, keypoints, instance masks) is left to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from .index_map import index_map
from .labels import Label, draw_labels, font_size_for, legend_strip, title_bar
from .palette import class_colors, class_names, shade
from .tracker import InstanceTracker

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["draw_comparison", "draw_panoptic"]

# Smaller pictures are enlarged until their short side has this many pixels: text needs room.
_MIN_SIDE = 480
_MAX_SIDE = 4096
_VOID = (96, 96, 100)


def draw_panoptic(
    image: np.ndarray,
    panoptic_seg: np.ndarray | Tensor,
    segments_info: Sequence[dict],
    metadata: Any = None,
    *,
    alpha: float = 0.55,
    scale: int | None = None,
    labels: bool = True,
    legend: bool = False,
    tracker: InstanceTracker | None = None,
) -> np.ndarray:
    """Lay a panoptic segmentation over its image.

    Every class has its color, every instance a shade of it, every segment a thin contour and,
    where there is room, a label with its score. Pixels without a segment are shown in gray.

    Args:
        image: uint8 (H, W, 3), RGB.
        panoptic_seg: integer (H, W) array or tensor of segment ids.
        segments_info: one dict per segment with ``id``, ``category_id`` and ``isthing``; optionally
            ``score`` in [0, 1] and ``iscrowd``. As Detectron2's Panoptic FPN and its dataset dicts
            have them.
        metadata: Detectron2 ``Metadata``, or a dict, with ``thing_classes``, ``stuff_classes`` and,
            optionally, ``thing_colors``, ``stuff_colors``.
        alpha: opacity of the colors, in [0, 1].
        scale: enlarge by this factor; default: as much as a small picture needs.
        labels: write class names on the segments.
        legend: add a strip with the classes and their numbers of instances below.
        tracker: gives the instances of successive frames of a video lasting shades; by default
            an instance's shade is its place among the instances of its class.

    Returns:
        uint8 (scale * H [+ legend], scale * W, 3), RGB.

    Raises:
        ValueError: shapes or dtypes are not as above.
    """
    image, seg = _check(image, panoptic_seg)
    if tracker is not None:
        segments_info = tracker.update(seg, segments_info)
    scale = scale or _default_scale(*seg.shape)
    colors = _Colors(metadata, segments_info)
    canvas = _paint(image, seg, segments_info, colors, alpha, scale, labels)
    if legend:
        size = font_size_for(*canvas.shape[:2])
        strip = legend_strip(canvas.shape[1], colors.legend([(seg, segments_info)]), size)
        canvas = np.concatenate([canvas, strip])
    return canvas


def draw_comparison(
    image: np.ndarray,
    panels: Sequence[tuple[str, np.ndarray, Sequence[dict]]],
    metadata: Any = None,
    *,
    alpha: float = 0.55,
    scale: int | None = None,
    labels: bool = True,
    legend: bool = True,
    tracker: InstanceTracker | None = None,
) -> np.ndarray:
    """The image and segmentations of it side by side, with titles and one legend for all.

    Instances that overlap by more than half have the same shade in all panels. The legend counts
    the instances of each class panel by panel: "car ×3 | 2".

    Args:
        image: uint8 (H, W, 3), RGB.
        panels: (title, panoptic_seg, segments_info) of each segmentation, for example the ground
            truth and the prediction; see :func:`draw_panoptic`.
        metadata, alpha, scale, labels, tracker: see :func:`draw_panoptic`.
        legend: add a strip with the classes below.

    Returns:
        uint8 (H', W', 3), RGB.

    Raises:
        ValueError: see :func:`draw_panoptic`.
    """
    tracker = tracker or InstanceTracker()
    checked = []
    for title, seg, info in panels:
        seg = _check(image, seg)[1]
        checked.append((title, seg, tracker.update(seg, info)))
    scale = scale or _default_scale(*np.shape(image)[:2])
    colors = _Colors(metadata, [s for _, _, info in checked for s in info])
    views = [("input", _enlarge(image, scale, cv2.INTER_CUBIC))]
    for title, seg, info in checked:
        views.append((title, _paint(image, seg, info, colors, alpha, scale, labels)))
    height, width = views[0][1].shape[:2]
    size = font_size_for(height, width)
    columns = []
    for title, view in views:
        columns.append(np.concatenate([title_bar(width, title, size), view]))
        columns.append(np.full((len(columns[0]), max(4, size // 2), 3), 250, np.uint8))
    picture = np.concatenate(columns[:-1], axis=1)
    if not legend:
        return picture
    entries = colors.legend([(seg, info) for _, seg, info in checked])
    return np.concatenate([picture, legend_strip(picture.shape[1], entries, size)])


class _Colors:
    """Names and colors of the classes that occur in some segments."""

    def __init__(self, metadata, segments: Iterable[dict]):
        self.names = {kind: class_names(metadata, kind) for kind in (True, False)}
        highest = {kind: -1 for kind in (True, False)}
        for s in segments:
            kind = bool(s["isthing"])
            highest[kind] = max(highest[kind], s["category_id"])
        things, stuff = class_colors(metadata, highest[True] + 1, highest[False] + 1)
        self.colors = {True: things, False: stuff}

    def name(self, isthing: bool, category: int) -> str:
        names = self.names[isthing]
        if category < len(names):
            return names[category]
        return f"{'thing' if isthing else 'stuff'} {category}"

    def of_segments(self, segments: Sequence[dict]) -> np.ndarray:
        """Color of each segment: its class's, shaded for things. uint8 (N, 3)."""
        seen: dict[int, int] = {}
        colors = []
        for s in segments:
            isthing, category = bool(s["isthing"]), s["category_id"]
            number = seen[category] = seen.get(category, -1) + 1 if isthing else 0
            base = self.colors[isthing][category]
            colors.append(shade(base, s.get("shade", number)) if isthing else base)
        return np.array(colors, dtype=np.uint8).reshape(-1, 3)

    def legend(self, pictures) -> list[tuple[str, tuple]]:
        """(text, color) of each class that is visible in any of the pictures, things first."""
        counts: dict[tuple[bool, int], list[int]] = {}
        for i, (seg, info) in enumerate(pictures):
            visible = set(np.unique(seg).tolist())
            for s in info:
                if s["id"] in visible:
                    key = (bool(s["isthing"]), s["category_id"])
                    counts.setdefault(key, [0] * len(pictures))[i] += 1
        entries = []
        for (isthing, category), count in sorted(counts.items(), key=lambda x: (not x[0][0], x[0])):
            text = self.name(isthing, category)
            if isthing:
                text += " ×" + " | ".join(map(str, count))
            entries.append((text, tuple(self.colors[isthing][category].tolist())))
        return entries


def _paint(image, seg, segments, colors: _Colors, alpha, scale, labels) -> np.ndarray:
    index = index_map(seg, [s["id"] for s in segments])
    of_segment = colors.of_segments(segments)
    lut = np.concatenate([of_segment, [_VOID]]).astype(np.uint8)

    void = index == len(segments)
    if void.any():
        image = image.copy()
        image[void] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[void][:, None] // 2 + 40
    canvas = _enlarge(image, scale, cv2.INTER_CUBIC)
    index = _enlarge(index, scale, cv2.INTER_NEAREST)
    painted = cv2.addWeighted(canvas, 1 - alpha, lut[index], alpha, 0)
    _draw_contours(painted, index, lut)
    if labels:
        size = font_size_for(*painted.shape[:2])
        draw_labels(painted, index, _make_labels(segments, index, colors, of_segment), size)
    return painted


def _make_labels(segments, index, colors: _Colors, of_segment) -> list[Label]:
    areas = np.bincount(index.ravel(), minlength=len(segments) + 1)
    made = []
    for i, s in enumerate(segments):
        if areas[i] == 0:
            continue
        text = colors.name(bool(s["isthing"]), s["category_id"])
        if s.get("score") is not None:
            text += f" {100 * s['score']:.0f}%"
        if s.get("iscrowd"):
            text += " (crowd)"
        made.append(Label(text, tuple(of_segment[i].tolist()), i, bool(s["isthing"])))
    # stuff has many places to be named in; so things choose first, large before small
    return sorted(made, key=lambda x: (not x.isthing, -areas[x.segment]))


def _draw_contours(canvas: np.ndarray, index: np.ndarray, lut: np.ndarray) -> None:
    """One light line, one or two pixels wide, along every border between segments; in place."""
    edge = np.zeros(index.shape, dtype=bool)
    edge[:, 1:] |= index[:, 1:] != index[:, :-1]
    edge[1:] |= index[1:] != index[:-1]
    bright = lut[index[edge]].astype(np.int32) // 3 + 170
    canvas[edge] = bright.clip(0, 255).astype(np.uint8)


def _check(image, panoptic_seg) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(panoptic_seg, "cpu"):
        panoptic_seg = panoptic_seg.cpu().numpy()
    seg = np.asarray(panoptic_seg)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"the image must be uint8 of shape (H, W, 3), not {image.dtype} {image.shape}"
        )
    if not np.issubdtype(seg.dtype, np.integer) or seg.shape != image.shape[:2]:
        raise ValueError(
            f"panoptic_seg must be an integer array of the image's size {image.shape[:2]}, "
            f"not {seg.dtype} {seg.shape}"
        )
    return image, seg


def _default_scale(height: int, width: int) -> int:
    wanted = math.ceil(_MIN_SIDE / min(height, width))
    return max(1, min(wanted, _MAX_SIDE // max(height, width)))


def _enlarge(values: np.ndarray, scale: int, interpolation: int) -> np.ndarray:
    if scale == 1:
        return values
    return cv2.resize(values, None, fx=scale, fy=scale, interpolation=interpolation)
