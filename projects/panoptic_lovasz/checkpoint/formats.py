"""Read weights files of all kinds without running code that they may carry.

``.pth`` and ``.pt`` are read, after checks of our own, by PyTorch's ``weights_only`` loader,
``.safetensors`` by its library, and ``.pkl``, Detectron2's model zoo format, by an unpickler that
knows arrays and plain containers and nothing else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .archive import check_sizes, check_torch_file

__all__ = ["check_intact", "read_weights"]

_TRUST = "if you trust its author, load it with MODEL.TRUST_WEIGHTS True"
# What a pickle of NumPy arrays in plain containers refers to, under its old and its new names.
_ADMITTED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # bytes, as protocol 2 writes them
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


def read_weights(file: str | Path, *, trusted: bool = False) -> Any:
    """Read a weights file.

    Args:
        file: a local .pth, .pt, .pyth, .pkl or .safetensors file.
        trusted: unpickle whatever the file holds, which may run code.

    Returns:
        What was saved; for .safetensors a dict of tensors.

    Raises:
        CheckpointError: if the file is damaged, of another kind, or, unless ``trusted``, holds
            anything but tensors, arrays and plain containers; no code of it has run.
    """
    file = Path(file)
    readers = {
        ".safetensors": _read_safetensors,
        ".pkl": _read_pickle,
        **dict.fromkeys((".pth", ".pt", ".pyth"), _read_torch),
    }
    if file.suffix not in readers:
        raise CheckpointError(f"weights {file}: expected a file {', '.join(readers)}")
    try:
        content = readers[file.suffix](file, trusted)
        if not trusted:
            check_sizes(content, file)
        return content
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle ends in an error of any type
        raise CheckpointError(
            f"weights {file} cannot be read, the file is damaged: {type(error).__name__}: {error}"
        ) from error


def check_intact(file: str | Path) -> None:
    """Verify the checksums of a .pth file, which PyTorch writes and does not read.

    Raises:
        CheckpointError: if it is torn or changed.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"checkpoint {file} is damaged: {error}") from error
    if damaged is not None:
        raise CheckpointError(f"checkpoint {file} is damaged: {damaged} has a wrong checksum")


def _read_safetensors(file: Path, trusted: bool) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def _read_torch(file: Path, trusted: bool) -> Any:
    if not trusted:
        check_torch_file(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"weights {file} hold more than tensors and plain containers, or are damaged, and were "
            f"not loaded; {_TRUST}. PyTorch says: {reason}"
        ) from error


def _read_pickle(file: Path, trusted: bool) -> Any:
    content = io.BytesIO(file.read_bytes())
    if trusted:
        return pickle.load(content, encoding="latin1")
    return _ArrayUnpickler(content, file).load()


class _ArrayUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and plain containers."""

    def __init__(self, content: io.BytesIO, file: Path):
        super().__init__(content, encoding="latin1")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise CheckpointError(
                f"weights {self._file} refer to {module}.{name}, which arrays and plain containers "
                f"do not need, and were not loaded; {_TRUST}"
            )
        return super().find_class(module, name)
