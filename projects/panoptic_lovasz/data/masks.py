"""Instance masks that do not overlap, kept as the one label map that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks

__all__ = ["LabelMapMasks"]


class LabelMapMasks(BitMasks):
    """``BitMasks`` whose mask i is ``label_map == labels[i]``, made only where it is needed.

    A 800 x 1216 image with 26 instances takes 1 MB instead of 25; and where Detectron2 gives each
    of 512 sampled proposals a copy of its instance's mask, only labels are copied. What it returns
    is what ``BitMasks`` of the same masks returns.
    """

    def __init__(self, label_map: torch.Tensor, labels: torch.Tensor):
        """Keep the map and labels.

        Args:
            label_map: integer (H, W).
            labels: (N,), of the same type.
        """
        self.label_map, self.labels = label_map, labels
        self.image_size = label_map.shape

    @property
    def tensor(self) -> torch.Tensor:
        """All masks as a bool (N, H, W) tensor."""
        return self.label_map == self.labels[:, None, None]

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.label_map.device

    def to(self, *args: Any, **kwargs: Any) -> LabelMapMasks:
        """Move to a device."""
        return LabelMapMasks(self.label_map.to(*args, **kwargs), self.labels.to(*args, **kwargs))

    def __getitem__(self, item: int | slice | torch.Tensor) -> LabelMapMasks:
        labels = self.labels[item]
        return LabelMapMasks(self.label_map, labels[None] if labels.dim() == 0 else labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for label in self.labels:
            yield self.label_map == label

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Crop mask i by ``boxes[i]`` and resize it, as ``BitMasks.crop_and_resize`` does.

        Args:
            boxes: float (N, 4), x0, y0, x1, y1 in pixels.
            mask_size: height and width of the result.

        Returns:
            bool (N, mask_size, mask_size).
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(boxes)} boxes for {len(self)} masks")
        labels, index = self.labels.unique(return_inverse=True)
        masks = (self.label_map == labels[:, None, None]).to(boxes.dtype)
        rois = torch.cat([index[:, None].to(boxes), boxes], dim=1).to(self.device)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(masks[:, None], rois).squeeze(1) >= 0.5

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        """Concatenate the masks of several images, all of one size, into plain ``BitMasks``."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))
