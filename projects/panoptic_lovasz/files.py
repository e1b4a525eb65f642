"""Files that are there whole or not at all, and that are nothing but files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_file", "remove_unfinished", "write_atomically"]


def write_atomically(
    file_name: str | os.PathLike, write: Callable[[BinaryIO], object], *, durable: bool = False
) -> None:
    """Call ``write(file)`` on a temporary file that then takes the place of ``file_name``.

    Args:
        file_name: the file to write.
        write: writes the content.
        durable: wait until it is on the disk, so that it survives a loss of power, too.
    """
    file_name = Path(file_name)
    temporary = file_name.with_name(f".{file_name.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            write(f)
            if durable:
                f.flush()
                os.fsync(f.fileno())
        os.replace(temporary, file_name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Remove the temporary files that processes left in ``folder`` when they were killed.

    No other process may be writing there by :func:`write_atomically`.
    """
    for temporary in Path(folder).glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file, or a URL that Detectron2's ``PathManager`` knows, to read its bytes.

    A pipe or a device, which could keep its reader waiting for ever, is refused.

    Raises:
        OSError: if there is no such file, or it is of another kind.
    """
    path = os.fspath(path)
    if "://" in path:
        from detectron2.utils.file_io import PathManager

        return PathManager.open(path, "rb")
    f = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
        f.close()
        raise OSError("it is not a regular file")
    return f


def _without_waiting(path: str, flags: int) -> int:
    """Open as ``open`` does, except that a pipe does not wait for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
