"""The files that a data set names: regular ones, inside the folder that they are relative to."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence

from ..errors import DatasetError
from .fields import shorten

__all__ = ["Folder"]


class Folder:
    """A folder whose files are looked up by the names that a JSON gives them.

    The folder may be a symbolic link itself, and an absolute name may lead into it. A name that
    leads out of it, by ``..``, as an absolute path or through a link, is refused: who hands out a
    data set must not choose what else is read. So are pipes and devices, which never end.

    Each folder below is listed once, so looking up many files costs no system call for each.
    """

    def __init__(self, root: str | os.PathLike, follow_links: bool = False):
        """
        Args:
            root: the folder, or a URL that Detectron2's ``PathManager`` knows.
            follow_links: let symbolic links lead out of it.
        """
        self.root = os.fspath(root)
        self.follow_links = follow_links
        self._is_url = "://" in self.root
        self._roots = (os.path.abspath(self.root), os.path.realpath(self.root))
        self._listings: dict[str, dict[str, bool]] = {}

    def find(self, name: str) -> str:
        """Return the path of a file.

        As Windows and macOS do, a backslash separates folders, and letters with accents are the
        same whether they are written as one character or two.

        Raises:
            DatasetError: if the name leads out of the folder or to something that is not a file.
            FileNotFoundError: if there is no such file.
        """
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            path = self._find(spelling)
            if path is not None:
                return path
        raise FileNotFoundError(os.path.join(self.root, name))

    def find_png(self, name: str, json_file: str | os.PathLike) -> str:
        """Return the path of the PNG that a panoptic JSON names.

        Raises:
            DatasetError: as :meth:`find`, or if there is no such file; names the JSON.
        """
        try:
            return self.find(name)
        except FileNotFoundError as error:
            message = f"the PNG {error} does not exist"
        except DatasetError as error:
            message = str(error)
        raise DatasetError(f"{os.fspath(json_file)}: {message}")

    def relative(self, name: str) -> str:
        """The name, which does not lead out of the folder, without the folder if it begins so."""
        path = os.path.abspath(os.path.join(self.root, name))
        root = next(r for r in self._roots if _is_inside(path, (r,)))
        return os.path.relpath(path, root)

    def describe_missing(self, names: Sequence[str]) -> str:
        """The end of a message: where files of these names were looked for."""
        some = ", ".join(map(shorten, names[:3])) + (", ..." if len(names) > 3 else "")
        root = self.root if self._is_url else self._roots[0]
        if self._is_url or os.path.isdir(root):
            return f": {root} lacks {some}"
        return f": {root} is not a folder (looked there for {some})"

    def _find(self, name: str) -> str | None:
        path = os.path.join(self.root, name)
        if self._leads_out(name, path):
            raise DatasetError(
                f"the file name {shorten(name)} leads out of {self.root}, the folder that it is "
                "relative to"
            )
        folder, base = os.path.split(path)
        if folder not in self._listings:
            self._listings[folder] = self._list(folder)
        listing = self._listings[folder]
        if base not in listing and not base.isascii():
            base = next((b for b in listing if _composed(b) == _composed(base)), base)
        if base not in listing:
            return None
        path = os.path.join(folder, base)
        if not listing[base]:
            self._check(path, name)
        return path

    def _leads_out(self, name: str, path: str) -> bool:
        if self._is_url:
            return os.path.isabs(name) or "://" in name or ".." in name.split("/")
        if ".." not in name and not os.path.isabs(name):  # nearly all, and abspath takes its time
            return False
        return not _is_inside(os.path.abspath(path), self._roots)

    def _list(self, folder: str) -> dict[str, bool]:
        """Names in a folder, and whether each is known to be a regular file inside the root."""
        try:
            if self._is_url:
                from detectron2.utils.file_io import PathManager

                return dict.fromkeys(PathManager.ls(folder), True)
            inside = self.follow_links or _is_inside(os.path.realpath(folder), self._roots)
            with os.scandir(folder or ".") as entries:
                return {e.name: inside and e.is_file(follow_symlinks=False) for e in entries}
        except (OSError, ValueError):  # not there, or not readable: its files count as missing
            return {}

    def _check(self, path: str, name: str) -> None:
        target = os.path.realpath(path)
        if not (self.follow_links or _is_inside(target, self._roots)):
            raise DatasetError(
                f"{shorten(name)} is a link that leads out of {self.root}, to {target}; if you "
                "trust the data set, allow it by DATASETS.FOLLOW_LINKS or --follow-links"
            )
        if not os.path.isfile(target):
            kind = "a folder" if os.path.isdir(target) else "not a regular file"
            if not os.path.exists(target):
                kind = f"a link to {target}, which does not exist"
            raise DatasetError(f"{path} is {kind}")


def _is_inside(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
