"""The categories of a COCO panoptic JSON: reading them, checks, and colors for those without."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Sequence
from typing import Any, TypeGuard

from ..errors import DatasetError
from ..visualization.palette import distinct_colors
from .fields import read_bytes, read_json, shorten, with_unique_keys

__all__ = [
    "THINGS_CLASS",
    "category_colors",
    "check_categories",
    "fault_of_name",
    "is_color",
    "read_categories",
]

THINGS_CLASS = "things"  # name of semantic class 0, all things collapsed into one
_MAX_NAME = 256  # characters of a class's name
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories of controls, surrogates, line ends
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of text

Color = tuple[int, int, int]


def read_categories(json_file: str | os.PathLike) -> list[Any]:
    """Read the "categories" of a COCO JSON, without the rest where that is possible, or a list.

    Registration needs no more, and the segments of a large data set take seconds to parse.

    Raises:
        DatasetError: if the file is missing, is not JSON, or holds no list of categories.
    """
    content = read_bytes(json_file, "categories")
    key = b'"categories"'
    if content.count(key) == 1:
        rest = content[content.index(key) + len(key) :].lstrip(b" \t\r\n:")
        decoder = json.JSONDecoder(object_pairs_hook=with_unique_keys)
        try:
            categories, _ = decoder.raw_decode(rest.decode())
        except (ValueError, RecursionError):
            categories = None  # the whole file tells what is wrong
        if isinstance(categories, list):
            return categories
    whole = read_json(json_file, "categories")
    categories = whole.get("categories") if isinstance(whole, dict) else whole
    if not isinstance(categories, list):
        raise DatasetError(
            f"{os.fspath(json_file)}: expected a list of categories, or an object with a list "
            f"'categories', found {shorten(categories)}"
        )
    return categories


def fault_of_name(name: str) -> str:
    """Why a name must not reach terminals, tables and pictures; empty if it may."""
    if len(name) > _MAX_NAME:
        return f"has {len(name)} characters, expected at most {_MAX_NAME}"
    if name.isascii() and name.isprintable():  # nearly all, in no time
        return ""
    unseen = next((c for c in name if unicodedata.category(c) in _UNSEEN or c in _TURNING), None)
    return "" if unseen is None else f"has the control character U+{ord(unseen):04X}"


def check_categories(categories: Any, source: str) -> Sequence[dict[str, Any]]:
    """Return the categories, which must be usable as those of a panoptic data set.

    Raises:
        DatasetError: if a field is missing, of another type, or an id or name is taken twice;
            it begins with ``source``.
    """
    if not isinstance(categories, list) or not categories:
        raise DatasetError(f"{source}: 'categories' must be a list with at least one category")
    ids: set[int] = set()
    names: set[tuple[bool, str]] = set()
    for n, category in enumerate(categories):
        where = f"{source}: categories[{n}]"
        if not isinstance(category, dict):
            raise DatasetError(f"{where} is {shorten(category)}, expected an object")
        for field in ("id", "name", "isthing"):
            if field not in category:
                raise DatasetError(f"{where} has no '{field}': {shorten(category)}")
        category_id, name, isthing = category["id"], category["name"], category["isthing"]
        if type(category_id) is not int or category_id < 0:
            raise DatasetError(f"{where}: id is {shorten(category_id)}, expected an integer >= 0")
        if not isinstance(name, str) or not name:
            raise DatasetError(f"{where}: name is {shorten(name)}, expected a non-empty string")
        if fault := fault_of_name(name):
            raise DatasetError(f"{where}: name {shorten(name)} {fault}")
        if isthing not in (0, 1):
            raise DatasetError(
                f"{where}: isthing is {shorten(isthing)}, expected 0 (stuff) or 1 (thing)"
            )
        if category_id in ids:
            raise DatasetError(f"{where}: id {category_id} is taken by an earlier category")
        if (bool(isthing), name) in names:
            raise DatasetError(f"{where}: name {shorten(name)} is taken by an earlier category")
        if not isthing and name == THINGS_CLASS:
            raise DatasetError(
                f"{where}: stuff cannot be named '{THINGS_CLASS}', the name of semantic class 0"
            )
        if "color" in category and not is_color(category["color"]):
            raise DatasetError(
                f"{where}: color is {shorten(category['color'])}, expected three integers in 0..255"
            )
        ids.add(category_id)
        names.add((bool(isthing), name))
    return categories


def is_color(color: Any) -> TypeGuard[Sequence[int]]:
    """Whether it is three integers in 0..255."""
    return (
        isinstance(color, (list, tuple))
        and len(color) == 3
        and all(type(v) is int and 0 <= v <= 255 for v in color)
    )


def category_colors(categories: Sequence[dict[str, Any]]) -> dict[int, Color]:
    """By category id: its own color, or one that none of the others has."""
    colors = {c["id"]: tuple(c["color"]) for c in categories if "color" in c}
    for isthing in (1, 0):
        lacking = [c["id"] for c in categories if c["isthing"] == isthing and "color" not in c]
        if lacking:
            taken = tuple(colors.values())
            made = distinct_colors(len(lacking), vivid=bool(isthing), taken=taken).tolist()
            colors |= zip(lacking, map(tuple, made), strict=True)
    return colors
