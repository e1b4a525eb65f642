"""Panoptic FPN trained with the Lovász-Softmax loss, as a Detectron2 project."""
