"""Numbers that people look at before they train: pixels, instances and images by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from ..id_map import VOID
from .files import ImageFindings

__all__ = ["ClassRow", "Statistics"]

RARE = 0.01  # a class in less than this fraction of the images is called rare


@dataclass
class ClassRow:
    """Totals of one category; crowds count as pixels only."""

    category_id: int
    name: str
    isthing: bool
    pixels: int = 0
    instances: int = 0
    images: int = 0


class Statistics:
    """Totals over the images of a data set."""

    def __init__(self, categories: Sequence[dict[str, Any]]):
        """Start at zero for these categories of a COCO panoptic JSON."""
        self._rows = {
            c["id"]: ClassRow(c["id"], c["name"], bool(c["isthing"]))
            for c in sorted(categories, key=lambda c: (not c["isthing"], c["id"]))
        }
        self.num_images = 0
        self.num_pixels = 0
        self.void_pixels = 0
        self.sizes: Counter[tuple[int, int]] = Counter()

    def add(self, found: ImageFindings) -> None:
        """Add one image; one whose PNG could not be read counts by its size alone."""
        self.num_images += 1
        if found.size is not None:
            self.sizes[found.size] += 1
        self.num_pixels += sum(found.areas.values())
        self.void_pixels += found.areas.get(VOID, 0)
        shown = set()
        for segment in found.segments:
            category_id = segment.get("category_id")
            row = self._rows.get(category_id) if isinstance(category_id, int) else None
            if row is not None:
                row.pixels += found.areas[segment["id"]]
                row.instances += row.isthing and not segment.get("iscrowd", 0)
                shown.add(row.category_id)
        for category_id in shown:
            self._rows[category_id].images += 1

    def rows(self) -> list[ClassRow]:
        """One row a category: things, then stuff, by category id."""
        return list(self._rows.values())

    def rare(self) -> list[ClassRow]:
        """Categories that less than one image in a hundred shows, the rarest first."""
        rare = [r for r in self.rows() if 0 < r.images < RARE * self.num_images]
        return sorted(rare, key=lambda r: r.images)

    def table(self) -> str:
        """The totals as text."""
        total = max(self.num_pixels, 1)
        body: list[tuple] = [
            (
                r.name,
                "thing" if r.isthing else "stuff",
                r.pixels,
                f"{r.pixels / total:.2%}",
                r.instances if r.isthing else "",
                r.images,
            )
            for r in self.rows()
            if r.images
        ]
        body.append(("(void)", "", self.void_pixels, f"{self.void_pixels / total:.2%}", "", ""))
        table = tabulate(body, headers=("class", "kind", "pixels", "share", "instances", "images"))
        sizes = ", ".join(f"{w}x{h} ({n})" for (w, h), n in self.sizes.most_common(5))
        lines = [table, "", f"{self.num_images} images of {len(self.sizes)} sizes: {sizes}"]
        if self.rare():
            names = ", ".join(f"{r.name} ({r.images})" for r in self.rare())
            lines.append(f"rare, in less than 1% of the images: {names}")
        return "\n".join(lines)
