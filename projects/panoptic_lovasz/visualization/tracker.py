"""The same shade for the same instance, from frame to frame and from picture to picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .index_map import index_map

__all__ = ["InstanceTracker"]


@dataclass
class _Track:
    category_id: int
    shade: int
    missing: int = 0  # frames since it was last seen


class InstanceTracker:
    """Numbers the instances of successive frames so that each keeps its shade.

    The heuristic of Detectron2's ``VideoVisualizer``: an instance continues the track of its class
    whose last mask it overlaps with an IoU above ``min_iou``; a track that is not continued is
    remembered for ``memory`` frames. Here all overlaps come from one joint histogram of two label
    maps instead of one run-length code per mask.

    Args:
        min_iou: overlap needed to be taken for the same instance, in [0, 1).
        memory: frames that an instance may be missed for.
    """

    def __init__(self, min_iou: float = 0.5, memory: int = 8):
        self.min_iou = min_iou
        self.memory = memory
        self._tracks: list[_Track] = []
        self._map = np.zeros((0, 0), np.int32)  # 1 + position in _tracks of a pixel's track, or 0

    def update(self, panoptic_seg: np.ndarray, segments_info: Sequence[dict]) -> list[dict]:
        """Take in the next frame.

        Args:
            panoptic_seg: integer (H, W) array of segment ids; another size starts afresh.
            segments_info: its segments, see :func:`~.draw.draw_panoptic`.

        Returns:
            Copies of the segments, things with their ``shade`` for :func:`~.draw.draw_panoptic`.
        """
        if self._map.shape != panoptic_seg.shape:
            self._tracks, self._map = [], np.zeros(panoptic_seg.shape, np.int32)
        things = [s for s in segments_info if s["isthing"]]
        position = index_map(panoptic_seg, [s["id"] for s in things])
        frame = (position + 1) % (len(things) + 1)  # 1 + position in things, or 0
        continued = self._match(frame, things)
        self._tracks, self._map, shades = self._advance(frame, things, continued)
        shade_of = {s["id"]: shade for s, shade in zip(things, shades, strict=True)}
        return [
            {**s, "shade": shade_of[s["id"]]} if s["isthing"] else dict(s) for s in segments_info
        ]

    def _match(self, frame: np.ndarray, things: list[dict]) -> dict[int, int]:
        """Position in things -> position of the track that it continues; best overlap first."""
        old, new = len(self._tracks) + 1, len(things) + 1
        joint = np.bincount((self._map.ravel() * new + frame.ravel()), minlength=old * new)
        joint = joint.reshape(old, new).astype(np.float64)
        union = joint.sum(1)[:, None] + joint.sum(0)[None] - joint
        iou = (joint / np.maximum(union, 1))[1:, 1:]
        for i, track in enumerate(self._tracks):
            for j, thing in enumerate(things):
                if track.category_id != thing["category_id"]:
                    iou[i, j] = 0
        matched: dict[int, int] = {}
        for flat in np.argsort(-iou, axis=None, kind="stable"):
            i, j = np.unravel_index(flat, iou.shape)
            if iou[i, j] <= self.min_iou:
                break
            if j not in matched and i not in matched.values():
                matched[int(j)] = int(i)
        return matched

    def _advance(
        self, frame: np.ndarray, things: list[dict], continued: dict[int, int]
    ) -> tuple[list[_Track], np.ndarray, list[int]]:
        """Tracks and their map after this frame, and the shade of each of its things."""
        kept, new_number = [], np.zeros(len(self._tracks) + 1, np.int32)
        for i, track in enumerate(self._tracks):
            if i not in continued.values() and track.missing < self.memory:
                kept.append(_Track(track.category_id, track.shade, track.missing + 1))
                new_number[i + 1] = len(things) + len(kept)
        current: list[_Track] = []
        used = [(t.category_id, t.shade) for t in kept]
        used += [(self._tracks[i].category_id, self._tracks[i].shade) for i in continued.values()]
        for j, thing in enumerate(things):
            category = thing["category_id"]
            if j in continued:
                number = self._tracks[continued[j]].shade
            else:
                number = next(n for n in range(len(used) + 1) if (category, n) not in used)
                used.append((category, number))
            current.append(_Track(category, number))
        new_map = np.where(frame > 0, frame, new_number[self._map])
        return current + kept, new_map, [t.shade for t in current]
