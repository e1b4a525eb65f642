"""Whether a ``.pth`` file is one of tensors alone; PyTorch's reader is not left to find out.

``weights_only=True`` could be made to run code before PyTorch 2.6 (CVE-2025-32434), and to write
outside its memory before 2.10 (CVE-2026-24747). These checks come before it, whatever its version.
"""

from __future__ import annotations

import functools
import logging
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError

__all__ = ["check_sizes", "check_torch_file"]

logger = logging.getLogger(__name__)

_MAX_PICKLE = 2**26  # a checkpoint's pickle has the names and shapes of its tensors: some 100 KB


def check_torch_file(file: Path) -> None:
    """Refuse what ``torch.save`` does not write, without reading it by PyTorch.

    Raises:
        CheckpointError: for TorchScript, a tar archive, compressed, repeated or overlapping
            members, or tensors for which the file has no data; or if this PyTorch is too old.
    """
    _check_version(torch.__version__)
    with open(file, "rb") as f:
        is_zip = f.read(4) == b"PK\x03\x04"  # by which PyTorch decides, too
    if is_zip:
        with zipfile.ZipFile(file) as archive:
            _check_archive(archive, file)
    elif tarfile.is_tarfile(file):
        raise _refuse(file, "it is a tar archive, as PyTorch wrote before 0.1.10")


@functools.cache
def _check_version(version: Any) -> None:
    if version < (2, 6):
        raise CheckpointError(
            f"PyTorch {version} can be made to run code by a .pth file (CVE-2025-32434): install "
            "2.6 or newer, or use .safetensors"
        )
    if version < (2, 10):
        logger.warning(
            f"PyTorch {version} can be made to write outside its memory by a .pth file "
            "(CVE-2026-24747): for files of others use 2.10 or newer, or .safetensors"
        )


def _check_archive(archive: zipfile.ZipFile, file: Path) -> None:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        raise _refuse(file, "it is TorchScript, which is code")
    if len(members) < len(archive.infolist()):
        raise _refuse(file, "two of its members have the same name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise _refuse(file, "its members are compressed, those of PyTorch are not")
    if sum(info.file_size for info in members.values()) > file.stat().st_size:
        raise _refuse(file, "its members are larger than the file")
    if "data.pkl" not in members or members["data.pkl"].file_size > _MAX_PICKLE:
        raise _refuse(file, f"it has no data.pkl of at most {_MAX_PICKLE} bytes")
    with archive.open(members["data.pkl"]) as f:
        storages = _Storages(f)
        storages.load()
    for key, size in storages.found.items():
        data = members.get(f"data/{key}")
        if data is None or size > data.file_size:
            held = 0 if data is None else data.file_size
            raise _refuse(file, f"tensor data {key:.20} shall have {size} bytes and has {held}")


def check_sizes(content: Any, file: Path) -> None:
    """Refuse tensors and arrays that need more memory than the file has bytes.

    A tensor may repeat one number, and an array be empty memory, of any size.

    Args:
        content: what was read, before any of it is copied.
        file: where from.

    Raises:
        CheckpointError: if there are such.
    """
    available = file.stat().st_size
    total, waiting, seen = 0, [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif isinstance(value, torch.Tensor):
            if value.layout != torch.strided:
                raise _refuse(file, f"a tensor has the layout {value.layout}")
            size = value.numel() * value.element_size()
            total += size
            if size > value.untyped_storage().nbytes():
                raise _refuse(file, f"a tensor of {tuple(value.shape)} repeats what it has")
        elif isinstance(value, np.ndarray):
            total += value.nbytes
    if total > 4 * available:  # several may share their data
        raise _refuse(file, f"{total} bytes of tensors in {available} bytes")


class _Storages(pickle.Unpickler):
    """Goes through a pickle and notes how much data its tensors have; all it makes is inert."""

    def __init__(self, f: Any):
        super().__init__(f)
        self.found: dict[str, int] = {}  # bytes by key

    def find_class(self, module: str, name: str) -> type[_Inert]:
        return type("_Named", (_Inert,), {"name": name})

    def persistent_load(self, pid: Any) -> None:
        _, kind, key, _, count = pid
        size = count * _bytes_of_element(kind.name)
        self.found[key] = max(self.found.get(key, 0), size)


class _Inert:
    """Takes whatever a pickle does to it, and does nothing."""

    name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    add = append


def _bytes_of_element(storage: str) -> int:
    """Of a storage's class, such as FloatStorage; UntypedStorage counts bytes."""
    with warnings.catch_warnings():  # asking an old name for its dtype counts as using it
        warnings.simplefilter("ignore")
        dtype = getattr(getattr(torch, storage, None), "dtype", None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 1


def _refuse(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"weights {file} were not loaded: {reason}")
