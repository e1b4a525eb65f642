"""train_net.py whose last process is unlike the others; the first argument says how."""

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


def remove_labels(module, inputs):
    for item in inputs[0]:
        item["sem_seg"].fill_(255)
        item["instances"] = item["instances"][:0]


def build_other_model(cfg):
    model = build_model(cfg)
    if comm.get_rank() == comm.get_world_size() - 1:
        if how == "loss is NaN":
            model.register_forward_hook(spoil_loss)
        elif how == "features are NaN":
            model.backbone.register_forward_hook(spoil_features)
        elif how == "no labels":
            model.register_forward_pre_hook(remove_labels)
    return model


how = sys.argv.pop(1)
Trainer.build_model = staticmethod(build_other_model)
runpy.run_path("train_net.py", run_name="__main__")
