"""train_net.py with a network that goes wrong in the last process; the first argument says how."""

import runpy
import sys

import torch
from detectron2.utils import comm

from panoptic_lovasz import Trainer

build_model = Trainer.build_model


def spoil_loss(module, inputs, losses):
    return {k: v * torch.nan if k == "loss_mask" else v for k, v in losses.items()}


def spoil_features(module, inputs, features):
    return {k: v * torch.nan for k, v in features.items()}


def build_spoilt_model(cfg):
    model = build_model(cfg)
    if comm.get_rank() == comm.get_world_size() - 1:
        if how == "loss":
            model.register_forward_hook(spoil_loss)
        else:
            model.backbone.register_forward_hook(spoil_features)
    return model


how = sys.argv.pop(1)
Trainer.build_model = staticmethod(build_spoilt_model)
runpy.run_path("train_net.py", run_name="__main__")
