"""Prediction: from images, folders and videos to results, pictures and files."""

from .predictor import PanopticPredictor
from .result import PanopticResult, Segment

__all__ = ["PanopticPredictor", "PanopticResult", "Segment"]
