"""Divide a data set into one to train with and one to evaluate with.

Images that look alike must not be on both sides: crops of a photo, or frames of a drive, would be
known by heart. So whole groups are divided, or a stretch of a group's frames is held out.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ..errors import DatasetError
from .classes import PanopticClasses
from .coco_panoptic import annotated_images, read_coco_panoptic_json
from .fields import read_bytes, shorten

__all__ = [
    "classes_of",
    "group_names",
    "hold_out_groups",
    "hold_out_stretches",
    "read_names",
    "split_coco_panoptic",
]


def group_names(names: Iterable[str], pattern: str) -> list[list[str]]:
    """Groups of file names in which a regular expression finds the same text, sorted by numbers.

    Args:
        names: file names.
        pattern: such as ``^[^_]+``, what is before the first underscore; ``.+`` makes each name a
            group of its own, the empty one makes a single group.

    Raises:
        DatasetError: if the pattern is not a regular expression, or finds nothing in a name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"{shorten(pattern)} is not a regular expression: {error}") from None
    groups = defaultdict(list)
    for name in sorted(names, key=_in_order):
        found = compiled.search(name)
        if found is None:
            raise DatasetError(f"the group pattern {shorten(pattern)} finds nothing in {name!r}")
        groups[found.group()].append(name)
    return list(groups.values())


def _in_order(name: str) -> str:
    """A key that sorts frame_9 before frame_10."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(20), name)


def hold_out_groups(groups: Sequence[Sequence[str]], share: float, seed: int = 1) -> set[str]:
    """The names of groups drawn at random, as many as fit into ``share`` of all names.

    Raises:
        DatasetError: if every group is larger than that.
    """
    total = sum(map(len, groups))
    most = round(share * total)
    held_out: set[str] = set()
    for group in random.Random(seed).sample(groups, len(groups)):
        if len(held_out) + len(group) <= most:
            held_out.update(group)
    if not held_out:
        smallest = min(map(len, groups))
        raise DatasetError(
            f"the smallest of {len(groups)} groups has {smallest} of {total} images, expected at "
            f"most {most}, the share of {share}: make the groups smaller or the share larger"
        )
    return held_out


def hold_out_stretches(
    groups: Iterable[Sequence[str]], share: float, gap: int = 0
) -> tuple[set[str], set[str]]:
    """The stretch in the middle of each group that is ``share`` of it, and what is beside it.

    Args:
        groups: names in the order of time.
        share: above 0, below 1; of a group it is met to an image.
        gap: how many names before and after a stretch resemble it too much to train with.

    Returns:
        The names of the stretches, and those of the gaps.
    """
    held_out: set[str] = set()
    left_out: set[str] = set()
    for group in groups:
        begin = int(len(group) * (1 - share) / 2)
        end = int(len(group) * (1 + share) / 2)
        held_out.update(group[begin:end])
        if end > begin:
            left_out.update(group[max(begin - gap, 0) : begin], group[end : end + gap])
    return held_out, left_out


def read_names(file: str | os.PathLike, known: Collection[str]) -> set[str]:
    """File names from a text file, one a line; empty lines do not count.

    Raises:
        DatasetError: if the file cannot be read, or has a name that is not known.
    """
    try:
        lines = read_bytes(file, "list of names").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"list of names {os.fspath(file)} is not UTF-8: {error}") from None
    names = {line.strip() for line in lines} - {""}
    unknown = sorted(names.difference(known))
    if unknown:
        raise DatasetError(
            f"list of names {os.fspath(file)}: {len(unknown)} of {len(names)} belong to no "
            f"annotated image, such as {shorten(unknown[0])}; {shorten(min(known))} would"
        )
    return names


def split_coco_panoptic(
    json_file: str | os.PathLike,
    choose: Callable[[list[str]], tuple[Collection[str], Collection[str]]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the content of a COCO panoptic JSON by the file names of its annotated images.

    Args:
        json_file: the JSON; images and PNGs are not looked at, both sides share the folders.
        choose: gets the names, returns those to evaluate with and those for neither side.

    Returns:
        Contents of two JSONs, to train and to evaluate with; what is said of the data set as a
        whole, such as the categories, is in both.

    Raises:
        DatasetError: if the JSON is faulty, or one side would have no image.
    """
    json_file = os.fspath(json_file)
    content = read_coco_panoptic_json(json_file)
    classes = PanopticClasses.from_categories(content["categories"], json_file)
    ids = {d["file_name"]: d["image_id"] for d in annotated_images(content, json_file, classes)}
    chosen, neither = map(set, choose(list(ids)))
    sides = {"train": ids.keys() - chosen - neither, "evaluate": chosen}
    for use, names in sides.items():
        if not names:
            raise DatasetError(f"{json_file}: of {len(ids)} images none is left to {use} with")
    train, val = (_part(content, {ids[name] for name in names}) for names in sides.values())
    return train, val


def _part(content: dict[str, Any], ids: Collection[int | str]) -> dict[str, Any]:
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
    }


def classes_of(content: dict[str, Any]) -> set[str]:
    """Names of the categories that have a segment."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    segments = (s for a in content["annotations"] for s in a["segments_info"])
    return {names[s["category_id"]] for s in segments}
