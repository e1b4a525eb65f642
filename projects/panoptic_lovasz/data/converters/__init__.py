"""Converters of other annotation layouts into the COCO panoptic format, one function each."""

from .camvid import convert_camvid

__all__ = ["convert_camvid"]
