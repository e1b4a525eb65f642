"""JSON and YAML by strangers, read as plain values at a cost that their size bounds."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import yaml

from ..data.fields import with_unique_keys
from ..errors import CheckpointError

__all__ = ["MAX_CHARACTERS", "parse_json", "parse_yaml", "read_text"]

MAX_CHARACTERS = 2**20  # a config has some ten thousand, the classes of a model fewer
_MAX_NODES = 100_000  # a config has a thousand


def read_text(file: str | Path, limit: int = MAX_CHARACTERS) -> str:
    """Read a text file of at most ``limit`` bytes.

    Raises:
        CheckpointError: if it is longer, or not UTF-8.
    """
    with open(file, "rb") as f:
        content = f.read(limit + 1)
    if len(content) > limit:
        raise CheckpointError(f"{file} is too long: expected at most {limit} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not text in UTF-8: {error}") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON whose objects have every key once.

    Args:
        text: the JSON; its length is for the caller to limit.
        where: where it comes from, for messages.

    Raises:
        CheckpointError: if it is something else.
    """
    try:
        return json.loads(text, object_pairs_hook=with_unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON: {error}") from error


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML of plain values, whose aliases do not multiply them.

    Args:
        text: the YAML; its length is for the caller to limit.
        where: where it comes from, for messages.

    Raises:
        CheckpointError: if it is something else.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > _MAX_NODES:
            raise ValueError(f"its aliases stand for more than {_MAX_NODES} values")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not YAML of plain values: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """Values in a node with its aliases written out; infinite if it contains itself."""
    if node not in known:
        known[node] = math.inf  # what it is, should it be met again below itself
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            children = itertools.chain(*children)
        known[node] = 1 + sum(_size(child, known) for child in children)
    return known[node]
