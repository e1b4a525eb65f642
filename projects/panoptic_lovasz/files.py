"""Files that are there whole or not at all, and those that are elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from iopath.common.file_io import PathManager

__all__ = ["path_manager", "remove_unfinished", "write_atomically"]

_LOCAL = PathManager()


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


def path_manager(path: str | os.PathLike) -> PathManager:
    """Detectron2's ``PathManager`` for a URL, one of local files for a path.

    So that what reads local files alone does not import Detectron2, which takes seconds.
    """
    if "://" not in os.fspath(path):
        return _LOCAL
    from detectron2.utils.file_io import PathManager

    return PathManager
