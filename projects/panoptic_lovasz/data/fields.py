"""JSON files and checks of their fields; each raises a DatasetError that begins with ``where``."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any

from ..errors import DatasetError
from ..files import open_file

__all__ = [
    "check_field",
    "check_file_name",
    "check_unique",
    "describe_unmatched",
    "read_bytes",
    "read_json",
    "shorten",
    "with_unique_keys",
]


def read_bytes(file: str | os.PathLike, kind: str = "file") -> bytes:
    """Read a file whole; ``kind`` is what a message calls it.

    Raises:
        DatasetError: if it is missing, unreadable or not a regular file.
    """
    file = os.fspath(file)
    try:
        with open_file(file) as f:
            return f.read()
    except FileNotFoundError:
        raise DatasetError(f"{kind} {file} does not exist") from None
    except OSError as error:
        raise DatasetError(f"{kind} {file} cannot be read: {error}") from error


def read_json(file: str | os.PathLike, kind: str = "JSON") -> Any:
    """Read a JSON file in any of Unicode's encodings, with or without a byte-order mark.

    Args:
        file: the file.
        kind: what a message calls it.

    Raises:
        DatasetError: if it is missing, unreadable or not JSON, or an object has a key twice.
    """
    content = read_bytes(file, kind)
    try:
        return json.loads(content, object_pairs_hook=with_unique_keys)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{kind} {os.fspath(file)} cannot be read: {error}") from error


def with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dict of a JSON object, as ``object_pairs_hook`` of :func:`json.loads`.

    Raises:
        ValueError: if a key is there twice; JSON's readers differ in which of the values counts.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r:.80} is there more than once")
    return content


def check_field(record: Any, field: str, types: tuple[type, ...], where: str) -> Any:
    """Return ``record[field]``; it must be exactly of one of the types, so a bool is not an int."""
    if not isinstance(record, dict):
        raise DatasetError(f"{where} is {shorten(record)}, expected an object")
    if field not in record:
        raise DatasetError(f"{where} has no '{field}'")
    value = record[field]
    if type(value) not in types:
        expected = " or ".join(t.__name__ for t in types)
        raise DatasetError(f"{where}: {field} is {shorten(value)}, expected {expected}")
    return value


def check_file_name(record: Any, where: str) -> str:
    """Return ``record["file_name"]``, which must be a path."""
    name = check_field(record, "file_name", (str,), where)
    if not name or "\0" in name:
        raise DatasetError(f"{where}: file_name is {shorten(name)}, expected a path")
    return name


def check_unique(values: Iterable[Any], where: str) -> None:
    """Raise if a value occurs twice."""
    seen = set()
    for value in values:
        if value in seen:
            raise DatasetError(f"{where} {shorten(value)} occurs more than once")
        seen.add(value)


def describe_unmatched(value: int | str, known: Container[Any], what: str) -> str:
    """What to say of an id that is not among those known, such as "1" among integers."""
    alike: int | str = str(value)
    if isinstance(value, str) and re.fullmatch("-?[0-9]{1,18}", value):
        alike = int(value)
    hint = ""
    if alike in known:
        hint = f"; there is {shorten(alike)} of type {type(alike).__name__}: write both alike"
    return f"{shorten(value)}, of type {type(value).__name__}, is not the id of any {what}{hint}"


def shorten(value: Any, length: int = 200) -> str:
    """Return ``repr(value)``, cut to a length that fits into a message."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
