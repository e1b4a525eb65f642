"""Publish a trained model: files to share, a model card, and an entry in a model zoo.

python -m panoptic_lovasz.tools.publish OUTPUT/model_best.pth --name NAME --output DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError
from . import cli

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.publish",
        description="Write a trained model as files to share, with a model card.",
    )
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="weights that training wrote, or its OUTPUT_DIR")
    add("--name", required=True, help="the model's name, with which the files' names start")
    add("--output", default="published", metavar="DIR", type=Path, help="(%(default)s)")
    add("--license", help="of the weights, such as CC-BY-4.0 (default: a published model's own)")
    add("--half", action="store_true", help="half precision: half the bytes")
    add("--safetensors-only", action="store_true", help="no .pth and .pkl for Detectron2's tools")
    add("--picture", metavar="IMAGE", help="image for the card (first of the test set, if there)")
    add("--credit", metavar="TEXT", help="line of Markdown below the picture: whose photo it is")
    add("--index", metavar="JSON", type=Path, help="index of a model zoo to add the model to")
    add(
        "--trust-weights",
        action="store_true",
        help="read weights that hold more than tensors; such a file can run any code",
    )
    return parser


def _run(args: argparse.Namespace) -> None:
    from detectron2.utils.logger import setup_logger

    from ..inference import PanopticPredictor
    from ..model_zoo.index import add_to_index, check_below, read_index
    from ..model_zoo.model_card import write_model_card
    from ..model_zoo.publishing import publish

    setup_logger(name="panoptic_lovasz")
    # Before anything is written: the index must be readable, weights and config belong together.
    if args.index:
        check_below(args.index, args.output)
        if args.index.is_file():
            read_index(args.index)
    opts = ["MODEL.TRUST_WEIGHTS", args.trust_weights]
    predictor = PanopticPredictor.from_checkpoint(args.checkpoint, opts, device="cpu")
    image = args.picture or _first_test_image(predictor.cfg)
    result = predictor(image) if image else None
    files = publish(
        args.checkpoint,
        args.name,
        args.output,
        license=args.license,
        half=args.half,
        stock_formats=not args.safetensors_only,
        trust_weights=args.trust_weights,
    )
    picture = None
    if result:
        picture = args.output / f"{args.name}.jpg"
        result.save(picture)
    card = args.output / f"{args.name}.md"
    write_model_card(card, files, picture, args.credit)
    if args.index:
        add_to_index(args.index, files)
    written = [files.safetensors, *files.stock, files.config, picture, card, args.index]
    print("\n".join(str(file) for file in written if file))


def _first_test_image(cfg: CfgNode) -> str | None:
    """None if no test set is here: then the card has no picture."""
    from ..data.register import get_panoptic_dataset_dicts

    for name in cfg.DATASETS.TEST:
        try:
            return get_panoptic_dataset_dicts(name)[0]["file_name"]
        except DatasetError as error:
            print(f"no picture for the card; --picture gives one: {error}")
    return None


if __name__ == "__main__":
    sys.exit(main())
