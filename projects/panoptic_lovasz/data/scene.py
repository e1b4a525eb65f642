"""The pictures of the generated data set: shapes that overlap and hide each other in a landscape.

Shape, not color alone, tells the things apart: their color ranges are neighbors, and each object
has its own shade, size, angle and texture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

__all__ = ["SHAPES_CATEGORIES", "draw_scene"]

SHAPES_CATEGORIES = [
    {"id": 1, "name": "disc", "isthing": 1, "color": [220, 60, 50]},
    {"id": 2, "name": "square", "isthing": 1, "color": [240, 150, 30]},
    {"id": 3, "name": "triangle", "isthing": 1, "color": [160, 60, 200]},
    {"id": 4, "name": "star", "isthing": 1, "color": [250, 220, 40]},
    {"id": 11, "name": "sky", "isthing": 0, "color": [120, 170, 230]},
    {"id": 12, "name": "grass", "isthing": 0, "color": [80, 160, 70]},
    {"id": 13, "name": "water", "isthing": 0, "color": [30, 80, 150]},
    {"id": 14, "name": "road", "isthing": 0, "color": [120, 115, 120]},
    {"id": 15, "name": "fence", "isthing": 0, "color": [110, 70, 35]},
]
_THINGS = {"disc": 1, "square": 2, "triangle": 3, "star": 4}
_HUES = {"disc": 358, "square": 28, "triangle": 290, "star": 52}  # degrees
_STUFF = {"sky": 11, "grass": 12, "water": 13, "road": 14, "fence": 15}
_MIN_VISIBLE = 0.4  # fraction of an object that those in front of it leave visible


def draw_scene(
    rng: np.random.Generator, size: int = 128
) -> tuple[np.ndarray, np.ndarray, list[dict[str, int]]]:
    """Draw one picture: a landscape, a fence, two to five things, now and then a crowd and fog.

    Returns:
        uint8 (size, size, 3) RGB image, int32 (size, size) id map, and its segments.
    """
    scene = _Scene(rng, size)
    scene.draw_landscape()
    fence = rng.choice(["behind", "in front", "none"], p=[0.4, 0.35, 0.25])
    if fence == "behind":
        scene.draw_fence()
    if rng.random() < 0.1:
        scene.draw_crowd()
    for _ in range(rng.integers(2, 6)):
        scene.draw_thing()
    if fence == "in front":
        scene.draw_fence()
    if rng.random() < 0.1:
        scene.draw_fog()
    return scene.finish()


class _Scene:
    """A picture in the making: colors in 0..1 beside ids."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.image = np.zeros((size, size, 3))
        self.ids = np.zeros((size, size), np.int32)
        self.segments: list[dict[str, int]] = []
        self.areas: dict[int, int] = {}  # of things, as drawn
        self.y, self.x = np.mgrid[:size, :size] / size

    def draw_landscape(self) -> None:
        rng, x, y = self.rng, self.x, self.y
        horizon = rng.uniform(0.3, 0.5) + 0.03 * np.sin(x * rng.uniform(3, 8) + rng.uniform(0, 6))
        sky = y < horizon
        clouds = self._noise(0.12)
        blue = np.stack(
            [0.45 + 0.35 * y + 0.2 * clouds, 0.65 + 0.2 * y + 0.15 * clouds, 0.95 + 0 * y]
        )
        self._paint(sky, blue.transpose(1, 2, 0), self._add("sky"))
        blades = 0.6 * self._noise(0.01) + 0.4 * self._noise(0.1)
        green = np.stack([0.3 + 0.15 * blades, 0.55 + 0.22 * blades, 0.22 + 0.1 * blades], axis=-1)
        self._paint(~sky, green, self._add("grass"))
        if rng.random() < 0.7:
            self._draw_water(sky)
        if rng.random() < 0.7:
            self._draw_road(sky, horizon.mean())

    def _draw_water(self, sky: np.ndarray) -> None:
        rng, x, y = self.rng, self.x, self.y
        cx, cy = rng.uniform(0.1, 0.9), rng.uniform(0.6, 0.95)
        rx, ry = rng.uniform(0.25, 0.5), rng.uniform(0.08, 0.2)
        edge = 1 + 0.15 * np.sin(7 * np.arctan2(y - cy, x - cx) + rng.uniform(0, 6))
        lake = (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < edge) & ~sky
        ripples = np.sin(y * self.size * rng.uniform(0.9, 1.4) + 2 * self._noise(0.05))
        blue = np.stack([0.1 + 0.06 * ripples, 0.3 + 0.08 * ripples, 0.5 + 0.1 * ripples], axis=-1)
        self._paint(lake, blue, self._add("water"))

    def _draw_road(self, sky: np.ndarray, horizon: float) -> None:
        rng, x, y = self.rng, self.x, self.y
        depth = np.clip((y - horizon) / (1 - horizon), 0, 1)  # 0 far, 1 near
        center = rng.uniform(0.3, 0.7) * (1 - depth) + rng.uniform(0.1, 0.9) * depth
        road = (np.abs(x - center) < 0.02 + rng.uniform(0.1, 0.2) * depth) & ~sky
        gray = 0.45 + 0.1 * self._noise(0.008)
        dashes = (np.abs(x - center) < 0.006 + 0.01 * depth) & (np.sin(40 * depth**0.6) > 0)
        gray = np.where(dashes, 0.9, gray)[..., None] * [1.0, 0.98, 1.0]
        self._paint(road, gray, self._add("road"))

    def draw_fence(self) -> None:
        """Posts and rails, two to three pixels thick at the default size."""
        rng, size = self.rng, self.size
        top, height = rng.uniform(0.4, 0.7) * size, rng.uniform(0.12, 0.2) * size
        slope, pitch = rng.uniform(-0.15, 0.15), rng.uniform(0.07, 0.12) * size
        canvas = Image.new("1", (size, size))
        draw = ImageDraw.Draw(canvas)
        thick = max(2, round(size / 50))
        for rail in (0.25, 0.7):
            y = top + rail * height
            draw.line([(0, y), (size, y + slope * size)], fill=1, width=thick)
        for post in np.arange(rng.uniform(0, pitch), size, pitch):
            y = top + slope * post
            draw.line([(post, y), (post, y + height)], fill=1, width=thick + 1)
        wood = (0.36 + 0.08 * self._noise(0.02))[..., None] * [1.0, 0.65, 0.35]
        self._paint(np.array(canvas), wood, self._add("fence"))

    def draw_thing(self) -> None:
        """Put an object where it leaves enough of the earlier ones visible; give up after ten."""
        name = self.rng.choice(list(_THINGS))
        for _ in range(10):
            mask = self._outline(name, self.rng.uniform(0.1, 0.21), self.rng.uniform(0.1, 0.9, 2))
            if self._leaves_others_visible(mask):
                segment_id = self._add(name)
                self._paint(mask, self._material(name), segment_id)
                self.areas[segment_id] = int(mask.sum())
                return

    def draw_crowd(self) -> None:
        """A heap of small discs that counts as one crowd segment."""
        corner = self.rng.uniform(0.1, 0.7, 2)
        crowd_id = self._add("disc", iscrowd=1)
        for _ in range(9):
            mask = self._outline("disc", 0.035, corner + self.rng.uniform(0, 0.2, 2))
            self._paint(mask, self._material("disc"), crowd_id)

    def draw_fog(self) -> None:
        """A gray patch without a label: void."""
        cx, cy = self.rng.uniform(0.1, 0.9, 2)
        fog = ((self.x - cx) / 0.2) ** 2 + ((self.y - cy) / 0.1) ** 2 < 1
        self.image = np.where(fog[..., None], 0.25 * self.image + 0.6, self.image)
        self.ids[fog] = 0

    def finish(self) -> tuple[np.ndarray, np.ndarray, list[dict[str, int]]]:
        noisy = self.image * self.rng.uniform(0.8, 1.1) + self.rng.normal(
            0, 0.015, self.image.shape
        )
        image = Image.fromarray((np.clip(noisy, 0, 1) * 255).astype(np.uint8))
        image = image.filter(ImageFilter.GaussianBlur(0.5))
        present = set(np.unique(self.ids).tolist())
        return np.asarray(image), self.ids, [s for s in self.segments if s["id"] in present]

    def _add(self, name: str, iscrowd: int = 0) -> int:
        """Add a segment of the class; return its id, which is a color of its own."""
        segment_id = (len(self.segments) + 1) * 0x9E3779B1 % 2**24  # odd factor: no id twice
        category_id = _THINGS.get(name) or _STUFF[name]
        self.segments.append({"id": segment_id, "category_id": category_id, "iscrowd": iscrowd})
        return segment_id

    def _paint(self, mask: np.ndarray, colors: np.ndarray, segment_id: int) -> None:
        self.image[mask] = colors[mask]
        self.ids[mask] = segment_id

    def _leaves_others_visible(self, mask: np.ndarray) -> bool:
        return all(
            ((self.ids == segment_id) & ~mask).sum() >= _MIN_VISIBLE * area
            for segment_id, area in self.areas.items()
        )

    def _outline(self, name: str, radius: float, center: np.ndarray) -> np.ndarray:
        """Pixels of a shape of the given radius and center, in fractions of the size."""
        if name == "disc":
            return (self.x - center[0]) ** 2 + (self.y - center[1]) ** 2 < radius**2
        corners = {"square": 4, "triangle": 3, "star": 10}[name]
        angles = 2 * np.pi * np.arange(corners) / corners + self.rng.uniform(0, 2 * np.pi)
        radii = np.full(corners, 1.15 * radius)
        if name == "star":
            radii[1::2] *= 0.45
        points = center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        canvas = Image.new("1", (self.size, self.size))
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in points * self.size], fill=1)
        return np.array(canvas)

    def _material(self, name: str) -> np.ndarray:
        """Colors of an object: a shade of its class, plain, striped, dotted or graded."""
        rng = self.rng
        hue, saturation = (_HUES[name] + rng.normal(0, 7)) % 360, rng.uniform(75, 100)
        value = rng.uniform(75, 100)
        rgb = np.array(ImageColor.getrgb(f"hsv({hue:.0f},{saturation:.0f}%,{value:.0f}%)")) / 255
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(30, 70)
        along = np.cos(angle) * self.x + np.sin(angle) * self.y
        texture = rng.choice(["plain", "stripes", "dots", "graded"])
        shade = np.zeros_like(along)
        if texture == "stripes":
            shade[np.sin(pitch * along) > 0] = 0.3
        elif texture == "dots":
            across = np.sin(angle) * self.x - np.cos(angle) * self.y
            shade[np.sin(pitch * along) * np.sin(pitch * across) > 0.4] = 0.35
        elif texture == "graded":
            shade = 0.5 * np.abs(along)
        return (1 - shade)[..., None] * rgb

    def _noise(self, scale: float) -> np.ndarray:
        """Smooth noise in -1..1 whose grain is ``scale`` times the size."""
        cells = max(2, round(1 / scale))
        coarse = self.rng.uniform(-1, 1, (min(cells, self.size),) * 2).astype(np.float32)
        image = Image.fromarray(coarse).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.float64)
