"""The index of a model zoo: what is published under which name, and how to know that it is that."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock

from ..checkpoint.published import sha256_of
from ..errors import CheckpointError, ConfigError
from ..files import write_atomically
from .publishing import PublishedFiles

__all__ = ["ZOO_VARIABLE", "Entry", "add_to_index", "fetch", "read_index"]

ZOO_VARIABLE = "PANOPTIC_LOVASZ_ZOO"
_INDEX = "index.json"
_FORMAT = 1
_DOWNLOADED = ("http://", "https://", "ftp://")  # iopath caches these, and never looks again


@dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes:
        file, config: the safetensors file and the YAML config, relative to the index, or absolute.
        sha256, config_sha256: of these files, in hexadecimal.
        metrics: metrics by name ("panoptic_seg/PQ"), most in percent.
        dataset, license: see :class:`~panoptic_lovasz.checkpoint.ModelInfo`.
    """

    file: str
    sha256: str
    config: str
    config_sha256: str
    metrics: dict[str, float] = field(default_factory=dict)
    dataset: str = ""
    license: str = ""


def read_index(zoo: str | os.PathLike | None = None) -> dict[str, Entry]:
    """Read the index of a zoo; its entries by name.

    Args:
        zoo: an index file, or a folder with an ``index.json``: a path or a URL that iopath can
            read. By default the environment variable PANOPTIC_LOVASZ_ZOO; if that is not set there
            is no zoo, and no entry.

    Raises:
        ConfigError: if there is no such index, or it is damaged; names the entry and field.
    """
    location = _locate(zoo)
    if location is None:
        return {}
    try:
        content = json.loads(_read(location))
    except Exception as error:  # of any type: iopath's handlers raise their own
        raise ConfigError(f"the model zoo's index {location} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ConfigError(f"{location} is no index of a model zoo of 'format' {_FORMAT}")
    models = content.get("models")
    if not isinstance(models, dict):
        raise ConfigError(f"{location}: 'models' must be an object, not {type(models).__name__}")
    folder = location.rpartition("/")[0]
    return {name: _entry(e, folder, f"{location}: '{name}'") for name, e in models.items()}


def fetch(file: str, sha256: str) -> str:
    """The local path of a file, downloaded if need be, whose content is what the index promises.

    Downloads go through iopath and stay in its cache ($FVCORE_CACHE).

    Raises:
        CheckpointError: if it cannot be had, or has another SHA-256.
    """
    try:
        local = PathManager.get_local_path(file)
        found = sha256_of(local)
    except Exception as error:  # of any type: iopath's handlers raise their own
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if found != sha256:
        cached = ""
        if file.startswith(_DOWNLOADED):
            Path(local).unlink()  # or the cache would keep it forever
            cached = "; it was removed from the cache, so that the next try downloads it again"
        raise CheckpointError(
            f"{file} is not what the model zoo's index promises: its SHA-256 is {found}, expected "
            f"{sha256}{cached}"
        )
    return local


def add_to_index(index_file: str | os.PathLike, files: PublishedFiles) -> None:
    """Add a published model to a local index, which is made if it is not there.

    A model of the same name is replaced. The index is written whole or not at all, and several
    processes may add to it at once.

    Raises:
        ConfigError: if the index is there and damaged.
    """
    index_file = Path(index_file)
    index_file.parent.mkdir(parents=True, exist_ok=True)
    entry = Entry(
        file=_relative(files.safetensors, index_file),
        sha256=sha256_of(files.safetensors),
        config=_relative(files.config, index_file),
        config_sha256=sha256_of(files.config),
        metrics=files.info.metrics,
        dataset=files.info.dataset,
        license=files.info.license,
    )
    with file_lock(os.path.abspath(index_file)):
        content: dict[str, Any] = {"format": _FORMAT, "models": {}}
        if index_file.is_file():
            read_index(index_file)  # raises if it is damaged
            content = json.loads(index_file.read_text())
        content["models"][files.info.name] = asdict(entry)
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        write_atomically(index_file, lambda f: f.write(text.encode()))


def _locate(zoo: str | os.PathLike | None) -> str | None:
    location = os.fspath(zoo) if zoo is not None else os.getenv(ZOO_VARIABLE, "")
    if not location:
        return None
    if "://" not in location:
        location = Path(location).expanduser().absolute().as_posix()
    return location if location.endswith(".json") else f"{location.rstrip('/')}/{_INDEX}"


def _read(location: str) -> bytes:
    if not location.startswith(_DOWNLOADED):
        with PathManager.open(location, "rb") as f:
            return f.read()
    with tempfile.TemporaryDirectory() as folder:  # an index changes: never from the cache
        return Path(PathManager.get_local_path(location, force=True, cache_dir=folder)).read_bytes()


def _entry(content: Any, folder: str, where: str) -> Entry:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is a {type(content).__name__}, expected an object")
    for f in fields(Entry):
        value, expected = content.get(f.name), dict if f.name == "metrics" else str
        if not isinstance(value, expected):
            raise ConfigError(
                f"{where} has the field '{f.name}' {value!r:.80}, expected a "
                f"{'object' if expected is dict else 'string'}"
            )
    known = {f.name: content[f.name] for f in fields(Entry)}
    for name in ("file", "config"):
        if "://" not in known[name] and not os.path.isabs(known[name]):
            known[name] = f"{folder}/{known[name]}"
    return Entry(**known)


def _relative(file: Path, index_file: Path) -> str:
    return Path(os.path.relpath(file, index_file.parent)).as_posix()
