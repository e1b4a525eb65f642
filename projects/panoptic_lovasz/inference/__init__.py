"""Prediction: from images, folders and videos to results, pictures and files."""

from .. import needs_detectron2  # noqa: F401  # first: one clear error without it
from .predictor import PanopticPredictor
from .result import PanopticResult, Segment

__all__ = ["PanopticPredictor", "PanopticResult", "Segment"]
