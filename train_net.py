#!/usr/bin/env python
"""Train and evaluate Panoptic FPN with the Lovász-Softmax loss.

    python train_net.py --config-file configs/... --num-gpus 8
    torchrun --nproc-per-node 8 train_net.py --config-file configs/...

``--num-gpus 0`` runs on the CPU; ``python train_net.py -h`` lists the arguments.
"""

# ruff: noqa: E402  # PyTorch reads the process's settings while it is loaded
import contextlib
import sys
from pathlib import Path

from panoptic_lovasz.process import prepare_process

prepare_process()

from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from panoptic_lovasz import Trainer, launch, load_config
from panoptic_lovasz.data.evaluation_sets import check_evaluation_sets
from panoptic_lovasz.engine import check_resumable
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.files import keeping
from panoptic_lovasz.tools import cli


def setup(args):
    opts = list(args.opts or [])
    if args.num_gpus == 0:
        opts = ["MODEL.DEVICE", "cpu", *opts]
    cfg = load_config(args.config_file, opts)
    cfg.freeze()
    if not args.eval_only:
        Trainer.check(cfg)
    if args.resume and not args.eval_only:
        check_resumable(cfg)
    if args.config_file.endswith(".safetensors"):
        args.config_file = ""  # default_setup would log it as text
    evaluates = args.eval_only and comm.is_main_process()  # the config is the training's
    with keeping(Path(cfg.OUTPUT_DIR, "config.yaml")) if evaluates else contextlib.nullcontext():
        default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="panoptic_lovasz")
    return cfg


def main(args):
    cfg = setup(args)
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise ConfigError("DATASETS.TEST is empty, expected the data sets to evaluate on")
        check_evaluation_sets(cfg)
        model = Trainer.build_model(cfg)
        checkpointer = Trainer.build_checkpointer(cfg, model, averaged=cfg.TEST.EMA, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args):
    print("Command line arguments:", args)
    launch(main, args)


if __name__ == "__main__":
    sys.exit(cli.run(default_argument_parser(), run))
