"""Every configuration key that the project adds to Detectron2's."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

__all__ = ["add_panoptic_lovasz_config"]


def add_panoptic_lovasz_config(cfg: CN) -> None:
    """Add the project's keys, with their defaults, to a Detectron2 config (in place)."""
    _add_loss_config(cfg)


def _add_loss_config(cfg: CN) -> None:
    loss = cfg.MODEL.SEM_SEG_HEAD.LOSS = CN()
    # A name in SEM_SEG_LOSS_REGISTRY: CrossEntropyLovaszLoss, LovaszSoftmaxLoss, CrossEntropyLoss
    # or the name of a loss that you registered.
    loss.NAME = "CrossEntropyLovaszLoss"
    # Weights of the two terms inside Ls. Ls as a whole is weighted by SEM_SEG_HEAD.LOSS_WEIGHT.
    loss.CE_WEIGHT = 1.0
    loss.LOVASZ_WEIGHT = 1.0
    # Iteration at which the Lovász term joins the cross-entropy ...
    loss.LOVASZ_START_ITER = 0
    # ... and the number of iterations over which its weight then grows linearly from 0.
    loss.LOVASZ_RAMP_ITERS = 0
    # Classes that the Lovász term averages over: "present" (in the ground truth), "all",
    # or a list of class ids.
    loss.CLASSES = "present"
    # Average the Lovász term over images instead of taking the batch as one image.
    loss.PER_IMAGE = False
    # "binned": linear time, within 1/NUM_BINS of the definition; "exact": sorts every class.
    loss.METHOD = "binned"
    loss.NUM_BINS = 1024
    # Jaccard index of the whole distributed batch instead of each process's own share of it.
    loss.GLOBAL_BATCH = False
    # Weight of each class, in both terms; an empty list weighs all alike.
    loss.CLASS_WEIGHTS = []
    # Compute both terms from the head's low-resolution logits, without upsampling them in memory.
    # Used with METHOD "binned"; False upsamples first, as Detectron2 does.
    loss.FUSED = True
    # Implementation of the fused loss: "auto", "torch", "numba" (CPU) or "triton" (CUDA).
    loss.IMPL = "auto"
