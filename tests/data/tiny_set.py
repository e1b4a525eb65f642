"""A panoptic data set of two images that a test may spoil."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_lovasz.data.id_map import write_panoptic_png

CATEGORIES = [
    {"id": 30, "name": "grass", "isthing": 0},
    {"id": 7, "name": "cat", "isthing": 1, "color": [10, 20, 30]},
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 12, "name": "sky", "isthing": 0},
]
# Two images of 6 x 8 pixels. 0 is void, 70000 needs all three channels.
ID_MAPS = {
    "a": np.array([[5] * 8] * 2 + [[5, 5, 9, 9, 9, 5, 0, 0]] * 2 + [[70000] * 8] * 2),
    "b": np.array([[1] * 8] * 3 + [[2] * 4 + [3] * 4] * 3),
}
CONTENT = {
    "info": {},
    "images": [
        {"id": 11, "file_name": "a.jpg", "height": 6, "width": 8},
        {"id": 12, "file_name": "b.png", "height": 6, "width": 8},
    ],
    "annotations": [
        {
            "image_id": 11,
            "file_name": "a.png",
            "segments_info": [
                {"id": 5, "category_id": 12, "iscrowd": 0, "area": 22, "bbox": [0, 0, 8, 4]},
                {"id": 9, "category_id": 3, "iscrowd": 0, "area": 6, "bbox": [2, 2, 3, 2]},
                {"id": 70000, "category_id": 30, "iscrowd": 0, "area": 16, "bbox": [0, 4, 8, 2]},
            ],
        },
        {
            "image_id": 12,
            "file_name": "b.png",
            "segments_info": [
                {"id": 1, "category_id": 12, "iscrowd": 0, "area": 24, "bbox": [0, 0, 8, 3]},
                {"id": 2, "category_id": 7, "iscrowd": 0, "area": 12, "bbox": [0, 3, 4, 3]},
                {"id": 3, "category_id": 7, "iscrowd": 1, "area": 12, "bbox": [4, 3, 4, 3]},
            ],
        },
    ],
    "categories": CATEGORIES,
}


@dataclass
class TinySet:
    """A panoptic data set on disk whose JSON a test may change and save again."""

    root: Path
    content: dict = field(default_factory=lambda: copy.deepcopy(CONTENT))

    @property
    def json(self) -> Path:
        return self.root / "panoptic.json"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def panoptic(self) -> Path:
        return self.root / "panoptic"

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return self.json, self.images, self.panoptic

    def save(self) -> None:
        self.json.write_text(json.dumps(self.content))

    def write_all(self) -> None:
        self.images.mkdir(parents=True)
        self.panoptic.mkdir()
        for n, (name, ids) in enumerate(ID_MAPS.items()):
            rgb = np.random.default_rng(n).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
            Image.fromarray(rgb).save(self.images / self.content["images"][n]["file_name"])
            write_panoptic_png(self.panoptic / f"{name}.png", ids)
        self.save()
