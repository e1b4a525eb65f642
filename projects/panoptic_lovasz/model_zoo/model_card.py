"""The model card of a published model: what it is, how good, and how to use it, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from ..checkpoint.published import ModelInfo, sha256_of
from ..files import write_text
from ..metrics import TITLES, averages, by_class, of_test_sets
from ..modeling import SEM_SEG_LOSS_REGISTRY
from .publishing import PublishedFiles

__all__ = ["hub_card", "write_model_card"]

_TAGS = ["panoptic-segmentation", "detectron2", "panoptic-fpn"]
_TERMS = {  # of the losses of SEM_SEG_LOSS_REGISTRY
    "ce": "cross-entropy",
    "lovasz": "the Lovász-Softmax loss",
    "jaccard": "the soft Jaccard loss",
    "dice": "the soft Dice loss",
    "tversky": "the Tversky loss",
}


def write_model_card(
    file: str | Path, files: PublishedFiles, picture: Path | None, credit: str | None = None
) -> None:
    """Write the card, atomically.

    Args:
        file: the Markdown file.
        files: what was published; in the card's folder.
        picture: a prediction, in the card's folder; None for a card without.
        credit: of the picture, in Markdown; None for none.
    """
    shown = [f"![A prediction]({picture.name})", credit or ""] if picture else []
    about = files.info
    sections = [_title(about), *shown, _results(about), _classes(about)]
    card = _join(*sections, _use(files), _training(about), _files(files))
    write_text(file, card)


def hub_card(info: ModelInfo) -> str:
    """The card of a folder in the Hugging Face Hub's layout: a YAML header, then Markdown."""
    header: dict[str, Any] = {
        "library_name": "panoptic_lovasz",
        "pipeline_tag": "image-segmentation",
        "license": info.license.lower(),
        "tags": [*_TAGS, *(["lovasz-softmax"] if _TERMS["lovasz"] in _loss_terms(info) else [])],
    }
    results = [
        _hub_result(info, name, averages(metrics))
        for name, metrics in of_test_sets(info.metrics, _test_sets(info)).items()
    ]
    if results:
        titles = [metric["type"] for result in results for metric in result["metrics"]]
        header["metrics"] = list(dict.fromkeys(titles))
        header["model-index"] = [{"name": info.name, "results": results}]
    front = f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"
    use = f"""## Use

```python
from panoptic_lovasz.inference import PanopticPredictor

predictor = PanopticPredictor.from_pretrained("{info.name}")  # this folder, or OWNER/{info.name}
predictor("photo.jpg").save("prediction.png")
```"""
    return _join(front, _title(info), _results(info), _classes(info), use, _training(info))


def _hub_result(info: ModelInfo, test_set: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    name = test_set or ", ".join(_test_sets(info)) or "unknown"
    return {
        "task": {"type": "image-segmentation", "name": "Panoptic segmentation"},
        "dataset": {"type": name, "name": name},
        "metrics": [{"type": title, "value": value} for title, value in metrics.items()],
    }


def _test_sets(info: ModelInfo) -> list[str]:
    return yaml.safe_load(info.config)["DATASETS"]["TEST"]


def _join(*sections: str) -> str:
    return "\n\n".join(s for s in sections if s) + "\n"


def _title(info: ModelInfo) -> str:
    terms = _loss_terms(info)
    loss = f", its semantic branch trained with {' and '.join(terms)}," if terms else ""
    return (
        f"# {_text(info.name)}\n\n"
        f"Panoptic FPN{loss} for [Detectron2](https://github.com/facebookresearch/detectron2). "
        f"Data: {_text(info.dataset)}. License of the weights: {_text(info.license)}."
    )


def _loss_terms(info: ModelInfo) -> dict[str, float]:
    """The weights of the semantic loss's terms by their titles, without those of 0; empty if they
    are not known: the loss or the head is not of this project."""
    head = yaml.safe_load(info.config)["MODEL"]["SEM_SEG_HEAD"]
    loss = head["LOSS"]
    if head["NAME"] == "SemSegFPNHead":
        return {_TERMS["ce"]: 1.0}
    if head["NAME"] != "LovaszSemSegFPNHead" or loss["NAME"] not in SEM_SEG_LOSS_REGISTRY:
        return {}
    terms = getattr(SEM_SEG_LOSS_REGISTRY.get(loss["NAME"]), "terms", ())
    weights = {t: loss["CE_WEIGHT" if t == "ce" else "LOVASZ_WEIGHT"] for t in terms}
    return {_TERMS.get(term, term): weight for term, weight in weights.items() if weight}


def _results(info: ModelInfo) -> str:
    if not info.metrics:
        return "## Results\n\nThis checkpoint was not evaluated in its training."
    parts = ["## Results", "In percent, on the test set of the config."]
    for name, metrics in of_test_sets(info.metrics, _test_sets(info)).items():
        parts += [f"### {_text(name)}"] if name else []
        values = averages(metrics)
        titled = {title: values.pop(title) for title in TITLES if title in values}
        parts += [_table([[*titled.values()]], [*titled])] if titled else []
        parts += [_by_class(metrics)]
        others = [(_text(key), value) for key, value in values.items()]
        parts += [_table(others, ["other metrics", ""])] if others else []
    return "\n\n".join(p for p in parts if p)


def _by_class(metrics: Mapping[str, float]) -> str:
    """A row per class, the best first, and a column per metric."""
    found = by_class(metrics)
    first: dict[str, float] = {}  # of each class, the value that decides its row's place
    for values in found.values():
        first = values | first
    names = sorted(first, key=lambda name: -first[name])
    rows = [[_text(name), *(values.get(name) for values in found.values())] for name in names]
    return _table(rows, ["class", *map(_text, found)]) if rows else ""


def _classes(info: ModelInfo) -> str:
    things = ", ".join(map(_text, info.classes.thing_classes))
    stuff = ", ".join(map(_text, info.classes.stuff_classes[1:]))
    return f"## Classes\n\n- things: {things}\n- stuff: {stuff or 'none'}"


def _use(files: PublishedFiles) -> str:
    return f"""## Use

```python
from panoptic_lovasz.inference import PanopticPredictor

predictor = PanopticPredictor.from_checkpoint("{files.safetensors.name}")
predictor("photo.jpg").save("prediction.png")
```

```
python demo.py --checkpoint {files.safetensors.name} --input photo.jpg --output pictures/
```

The file holds the config and the classes; in a model zoo its name, `{files.info.name}`, does for
its path.{_stock_use(files)}"""


def _stock_use(files: PublishedFiles) -> str:
    if not files.stock:
        return ""
    names = " and ".join(f"`{file.name}`" for file in files.stock)
    backbone = yaml.safe_load(files.info.config)["MODEL"]["BACKBONE"]["NAME"]
    but = ", but for the backbone, which is timm's" if "timm" in backbone else ""
    return f""" {names} are for
Detectron2's own `DetectionCheckpointer`: the parameters are those of its Panoptic FPN{but}."""


def _training(info: ModelInfo) -> str:
    config = yaml.safe_load(info.config)
    solver, head = config["SOLVER"], config["MODEL"]["SEM_SEG_HEAD"]
    is_ours = head["NAME"].startswith("Lovasz")  # others need not read LOSS
    rows = [
        ["iterations", solver["MAX_ITER"]],
        ["images per batch", solver["IMS_PER_BATCH"]],
        ["base learning rate", solver["BASE_LR"]],
        ["semantic loss", head["LOSS"]["NAME"] if is_ours else f"that of {head['NAME']}"],
        *([f"weight of {term}", weight] for term, weight in _loss_terms(info).items()),
        *([f"{package}, when published", v] for package, v in info.versions.items()),
    ]
    return "## Training\n\n" + _table([[k, str(v)] for k, v in rows], ["", ""])


def _files(files: PublishedFiles) -> str:
    written = (files.safetensors, *files.stock, files.config)
    rows = [[f"`{f.name}`", f"{f.stat().st_size:,}", sha256_of(f)] for f in written]
    return "## Files\n\n" + _table(rows, ["file", "bytes", "SHA-256"])


def _table(rows: Sequence[Sequence], headers: Sequence[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f")


def _text(text: str) -> str:
    """Text that is shown as it is: not HTML or Markdown, and not the end of a table's cell."""
    visible = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*\[\]<>|!#~&])", r"\\\1", visible)
