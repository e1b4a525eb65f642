"""Label maps that look like segmentations."""

import numpy as np


def wavy_cells(height, width, segments, rng):
    """A label map (H, W) of 0..segments-1: Voronoi cells with wavy borders."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y + 12 * np.sin(x / 17) + 6 * np.sin(x / 5), x + 9 * np.sin(y / 11)
    centers = rng.uniform(0, 1, (segments, 2)) * (height, width)
    return ((y[..., None] - centers[:, 0]) ** 2 + (x[..., None] - centers[:, 1]) ** 2).argmin(-1)
