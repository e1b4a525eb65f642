"""The model card of a published model: what it is, how good, and how to use it, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from tabulate import tabulate

from ..checkpoint.published import ModelInfo, sha256_of
from ..files import write_atomically
from .publish import PublishedFiles

__all__ = ["write_model_card"]

_PANOPTIC = ("PQ", "SQ", "RQ")
_KINDS = {"all": "", "things": "_th", "stuff": "_st"}
_OTHERS = {"mIoU": "sem_seg/mIoU", "box AP": "bbox/AP", "mask AP": "segm/AP"}


def write_model_card(file: str | Path, files: PublishedFiles, picture: Path | None) -> None:
    """Write the card, atomically.

    Args:
        file: the Markdown file.
        files: what was published; in the card's folder.
        picture: a prediction, in the card's folder; None for a card without.
    """
    sections = [
        f"# {files.info.name}",
        "Panoptic FPN, its semantic branch trained with the Lovász-Softmax loss, for "
        f"[Detectron2](https://github.com/facebookresearch/detectron2). Data: "
        f"{_text(files.info.dataset)}. License of the weights: {_text(files.info.license)}.",
        f"![A prediction]({picture.name})" if picture else "",
        _results(files.info),
        _classes(files.info),
        _use(files),
        _training(files.info),
        _files(files),
    ]
    card = "\n\n".join(s for s in sections if s) + "\n"
    write_atomically(file, lambda f: f.write(card.encode()))


def _results(info: ModelInfo) -> str:
    found = _panoptic_prefixes(info)
    if not found:
        return "## Results\n\nThis checkpoint was not evaluated in its training."
    parts = ["## Results", "In percent, on the test set of the config."]
    for prefix in found:
        title = prefix.removesuffix("panoptic_seg/").rstrip("/")
        rows = [
            [kind, *(info.metrics.get(f"{prefix}{m}{suffix}") for m in _PANOPTIC)]
            for kind, suffix in _KINDS.items()
        ]
        head = prefix.removesuffix("panoptic_seg/")
        others = {k: info.metrics[head + v] for k, v in _OTHERS.items() if head + v in info.metrics}
        parts += [f"### {_text(title)}"] if title else []
        parts += [_table(rows, ["", *_PANOPTIC])]
        parts += [_table([[*others.values()]], [*others])] if others else []
        parts += [_by_class(info, prefix)]
    return "\n\n".join(parts)


def _panoptic_prefixes(info: ModelInfo) -> list[str]:
    """What stands before "PQ" in the names of the metrics; one prefix for each test set."""
    return sorted(k.removesuffix("PQ") for k in info.metrics if k.endswith("panoptic_seg/PQ"))


def _by_class(info: ModelInfo, prefix: str) -> str:
    start = f"{prefix}PQ-"
    rows = [(_text(k[len(start) :]), v) for k, v in info.metrics.items() if k.startswith(start)]
    rows.sort(key=lambda row: -row[1])
    return _table(rows, ["class", "PQ"]) if rows else ""


def _classes(info: ModelInfo) -> str:
    things = ", ".join(map(_text, info.classes.thing_classes))
    stuff = ", ".join(map(_text, info.classes.stuff_classes[1:]))
    return f"## Classes\n\n- things: {things}\n- stuff: {stuff or 'none'}"


def _use(files: PublishedFiles) -> str:
    return f"""## Use

```python
from ..inference import PanopticPredictor

predictor = PanopticPredictor.from_checkpoint("{files.safetensors.name}")
predictor("photo.jpg").save("prediction.png")
```

```
python demo.py --checkpoint {files.safetensors.name} --input photo.jpg --output pictures/
```

The file holds the config and the classes. `{files.pth.name}` and `{files.pkl.name}` are for
Detectron2's own `DetectionCheckpointer`: the parameters are those of its Panoptic FPN."""


def _training(info: ModelInfo) -> str:
    config = yaml.safe_load(info.config)
    solver, loss = config["SOLVER"], config["MODEL"]["SEM_SEG_HEAD"]["LOSS"]
    rows = [
        ["iterations", solver["MAX_ITER"]],
        ["images per batch", solver["IMS_PER_BATCH"]],
        ["base learning rate", solver["BASE_LR"]],
        ["semantic loss", loss["NAME"]],
        ["its cross-entropy and Lovász weights", f"{loss['CE_WEIGHT']}, {loss['LOVASZ_WEIGHT']}"],
        *([f"{package}, when published", v] for package, v in info.versions.items()),
    ]
    return "## Training\n\n" + _table([[k, str(v)] for k, v in rows], ["", ""])


def _files(files: PublishedFiles) -> str:
    weights = (files.safetensors, files.pth, files.pkl, files.config)
    rows = [[f"`{f.name}`", f"{f.stat().st_size:,}", sha256_of(f)] for f in weights]
    return "## Files\n\n" + _table(rows, ["file", "bytes", "SHA-256"])


def _table(rows: Sequence[Sequence], headers: Sequence[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f")


def _text(text: str) -> str:
    """Text that neither ends a table's cell nor starts HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
