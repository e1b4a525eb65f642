"""The index of a model zoo: what is published under which name, and how to know that it is that."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock

from ..checkpoint.plain import parse_json
from ..checkpoint.published import sha256_of
from ..errors import CheckpointError, ConfigError
from ..files import write_text
from .publishing import PublishedFiles

__all__ = ["Entry", "add_to_index", "check_below", "fetch", "project_folder", "read_index"]

ZOO_VARIABLE = "PANOPTIC_LOVASZ_ZOO"
_INDEX = "index.json"
_FORMAT = 1
_MAX_BYTES = 2**26  # of an index; that of ten thousand models has some 10 MB
_DOWNLOADED = ("http://", "https://", "ftp://")  # iopath caches these, and never looks again


@dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes:
        file, config: full paths or URLs of the safetensors file and the YAML config. In the index
            they are relative to it, within its folder, or URLs.
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
            read. By default that of the environment variable PANOPTIC_LOVASZ_ZOO; if that is not
            set, the project's own.

    Raises:
        ConfigError: if there is no such index, or it is damaged; names the entry and field.
    """
    location = _locate(zoo)
    try:
        text = _read(location)
    except Exception as error:  # of any type: iopath's handlers raise their own
        raise ConfigError(f"the model zoo's index {location} cannot be read: {error}") from error
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{location} is too long: expected at most {_MAX_BYTES} bytes")
    content = parse_json(text, f"the model zoo's index {location}")
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ConfigError(f"{location} is not an index of a model zoo of 'format' {_FORMAT}")
    models = content.get("models")
    if not isinstance(models, dict):
        raise ConfigError(f"{location}: 'models' must be an object, not {type(models).__name__}")
    return {name: _entry(e, location, f"{location}: {name!r:.80}") for name, e in models.items()}


def fetch(file: str, sha256: str) -> str:
    """The local path of a file, downloaded if need be, whose content is what the index promises.

    Downloads go through iopath and stay in its cache ($FVCORE_CACHE).

    Raises:
        CheckpointError: if it cannot be had, or has another SHA-256.
    """
    try:
        local = PathManager.get_local_path(file)
        if not os.path.isfile(local):
            raise FileNotFoundError("there is no such file")  # nor a pipe or a device
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
        ConfigError: if the index is there and damaged, or the files are not in its folder.
    """
    index_file = Path(index_file)
    check_below(index_file, files.safetensors.parent)
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
        write_text(index_file, text)


def check_below(index_file: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Check that files of a folder can be in an index: that it lies beside or above them.

    Raises:
        ConfigError: if not.
    """
    top = Path(index_file).parent.resolve()
    if not Path(folder).resolve().is_relative_to(top):
        raise ConfigError(
            f"the index {index_file} can name files in its folder {top} alone, and these are in "
            f"{Path(folder).resolve()}: choose an index there or above"
        )


def project_folder(name: str) -> Path:
    """The folder of the project of that name, such as "configs"; a wheel has it in the package."""
    package = Path(__file__).parents[1]
    folder = package / name
    return folder if folder.is_dir() else package.parents[1] / name


def _locate(zoo: str | os.PathLike | None) -> str:
    location = os.fspath(zoo or os.getenv(ZOO_VARIABLE) or project_folder("zoo"))
    if "://" not in location:
        location = Path(location).expanduser().absolute().as_posix()
    return location if location.endswith(".json") else f"{location.rstrip('/')}/{_INDEX}"


def _read(location: str) -> bytes:
    if not location.startswith(_DOWNLOADED):
        with PathManager.open(location, "rb") as f:
            return f.read()
    with tempfile.TemporaryDirectory() as folder:  # an index changes: never from the cache
        return Path(PathManager.get_local_path(location, force=True, cache_dir=folder)).read_bytes()


def _entry(content: Any, location: str, where: str) -> Entry:
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
        known[name] = _place(known[name], location, f"{where}: '{name}'")
    return Entry(**known)


def _place(path: str, location: str, where: str) -> str:
    """The full path or URL of a file that an index names, which lies in its folder, or at a URL.

    Other places are not the index's to name; by ".." in a URL it would even name the place in the
    cache that the file is written to.
    """
    parts = re.split(r"[/\\]", path)
    is_url = path.startswith(("https://", "http://"))
    if ".." in parts or not (is_url or (parts[0] and ":" not in path and "?" not in path)):
        raise ConfigError(
            f"{where} is {path!r:.200}, expected a relative path that stays in the folder of the "
            "index, or a URL of http or https, without '..'"
        )
    return path if is_url else f"{location.rpartition('/')[0]}/{path}"


def _relative(file: Path, index_file: Path) -> str:
    return Path(os.path.relpath(file, index_file.parent)).as_posix()
