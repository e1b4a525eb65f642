"""Models as folders in the layout of the Hugging Face Hub, and the Hub's own if it is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import yaml
from torch import Tensor

from ..checkpoint.published import HUB_CONFIG, HUB_WEIGHTS, ModelInfo
from ..errors import ConfigError
from ..files import write_bytes, write_text
from .model_card import hub_card

__all__ = ["fetch_from_hub", "save_hub_folder"]


def save_hub_folder(
    folder: str | os.PathLike, info: ModelInfo, weights: Mapping[str, Tensor]
) -> None:
    """Write ``model.safetensors``, ``README.md`` with its YAML header, and ``config.json``.

    ``config.json`` holds the fields of :class:`ModelInfo`, the config as nested values.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        info: what belongs to the weights.
        weights: tensors by name, on any device and of any memory format.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content: dict = dict(info.to_metadata())
    del content["format"]  # says what tensors are in a safetensors file
    content |= {name: json.loads(content[name]) for name in ("classes", "metrics", "versions")}
    content["config"] = yaml.safe_load(info.config)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    write_bytes(folder / HUB_WEIGHTS, save(tensors, {"format": "pt"}))
    write_text(folder / "README.md", hub_card(info))
    write_text(folder / HUB_CONFIG, json.dumps(content, indent=2))


def fetch_from_hub(repo_id: str, revision: str | None = None) -> Path:
    """The folder of a model of the Hub: from the cache of ``huggingface_hub``, else downloaded.

    Args:
        repo_id: "owner/name".
        revision: a branch, tag or commit.

    Raises:
        ConfigError: if ``huggingface_hub`` is not installed, or has no such model.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            "models of the Hugging Face Hub need the package huggingface_hub"
        ) from error
    wanted = [HUB_CONFIG, HUB_WEIGHTS]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of many types: no network, no such model, no access
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"the Hugging Face Hub does not give '{repo_id}': {reason}") from error
