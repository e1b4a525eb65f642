"""Files that are there whole or not at all, and that are nothing but files."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

__all__ = [
    "keeping",
    "open_file",
    "read_csv",
    "remove_unfinished",
    "replacing",
    "write_atomically",
    "write_bytes",
    "write_csv",
    "write_text",
]

_LONGEST_NAME = 255  # bytes, of most file systems


@contextmanager
def keeping(path: str | os.PathLike) -> Iterator[None]:
    """Give a file its content back when the block, which may write it anew, ends."""
    path = Path(path)
    content = path.read_bytes() if path.is_file() else None
    try:
        yield
    finally:
        if content is not None:
            write_bytes(path, content)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside ``path``, for a file or a folder that the block makes there.

    It takes the place of ``path`` when the block ends; after an exception it is removed.
    """
    path = Path(path)
    temporary = path.with_name(_temporary_name(path))
    _remove(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def write_atomically(
    file_name: str | os.PathLike, write: Callable[[BinaryIO], object], *, durable: bool = False
) -> None:
    """Call ``write(file)`` on a temporary file that then takes the place of ``file_name``.

    Args:
        file_name: the file to write.
        write: writes the content.
        durable: wait until it is on the disk, so that it survives a loss of power, too.
    """
    with replacing(file_name) as temporary, open(temporary, "wb") as f:
        write(f)
        if durable:
            f.flush()
            os.fsync(f.fileno())


def write_bytes(file_name: str | os.PathLike, content: bytes, *, durable: bool = False) -> None:
    """Write a file as :func:`write_atomically` does."""
    write_atomically(file_name, lambda f: f.write(content), durable=durable)


def write_text(file_name: str | os.PathLike, content: str, *, durable: bool = False) -> None:
    """Write a file of UTF-8 as :func:`write_atomically` does."""
    write_bytes(file_name, content.encode(), durable=durable)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; [] if there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def write_csv(path: Path, columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file atomically; None and NaN become empty fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([None if isinstance(v, float) and math.isnan(v) else v for v in row])
    write_text(path, text.getvalue())


def _temporary_name(path: Path) -> str:
    """A name that ends like the file's, which writers look at, as far as that fits."""
    ending = f".{os.getpid()}.tmp"
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    for name in (f".{path.stem}{ending}{path.suffix}", f".{short}{ending}{path.suffix}"):
        if len(os.fsencode(name)) <= _LONGEST_NAME:
            return name
    return f".{short}{ending}"


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Remove the temporary files that processes left in ``folder`` when they were killed.

    No other process may be writing there by :func:`replacing` or :func:`write_atomically`.
    """
    for temporary in Path(folder).glob(".*.[0-9]*.tmp*"):
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_file(path: str | os.PathLike, buffering: int = -1) -> BinaryIO:
    """Open a regular file, or a URL that Detectron2's ``PathManager`` knows, to read its bytes.

    A pipe or a device, which could keep its reader waiting for ever, is refused. ``buffering`` is
    that of :func:`open`.

    Raises:
        OSError: if there is no such file, or it is of another kind.
    """
    path = os.fspath(path)
    if "://" in path:
        from detectron2.utils.file_io import PathManager

        return PathManager.open(path, "rb")
    f = open(path, "rb", buffering, opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
        f.close()
        raise OSError("it is not a regular file")
    return f


def _without_waiting(path: str, flags: int) -> int:
    """Open as ``open`` does, except that a pipe does not wait for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
