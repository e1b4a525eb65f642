"""Converters of other annotation layouts into the COCO panoptic format, one function each."""

from ...lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".camvid": ("convert_camvid",),
        ".cityscapes": ("convert_cityscapes",),
        ".coco_instances": ("convert_coco_instances",),
        ".label_folders": ("convert_label_folders",),
        "..categories": ("read_categories",),
    },
)
