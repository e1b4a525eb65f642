from .draw import draw_comparison, draw_panoptic
from .tracker import InstanceTracker

__all__ = ["InstanceTracker", "draw_comparison", "draw_panoptic"]
