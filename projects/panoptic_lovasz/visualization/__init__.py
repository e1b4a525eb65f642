"""Pictures of panoptic segmentation: drawing, colors, and instances followed through a video."""

from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {".draw": ("draw_comparison", "draw_panoptic"), ".tracker": ("InstanceTracker",)},
)
