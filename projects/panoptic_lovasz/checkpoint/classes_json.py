"""The classes of a model as JSON, read back with every field checked."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ..data.categories import is_color
from ..data.classes import PanopticClasses
from ..errors import CheckpointError, DatasetError
from .plain import parse_json

__all__ = ["classes_from_json", "classes_to_json"]

# Fields that have one entry per thing, per semantic class (1 + S) and per stuff class (S).
_LIKE = {
    "thing_colors": "thing_classes",
    "thing_dataset_ids": "thing_classes",
    "thing_segment_ids": "thing_classes",
    "stuff_colors": "stuff_classes",
    "stuff_segment_ids": "stuff_dataset_ids",
}


def classes_to_json(classes: PanopticClasses) -> str:
    """The classes as a JSON object with the fields of :class:`PanopticClasses`."""
    return json.dumps(dataclasses.asdict(classes), indent=1)


def classes_from_json(text: str, source: str) -> PanopticClasses:
    """Read what :func:`classes_to_json` wrote.

    Args:
        text: the JSON.
        source: where it comes from, for messages.

    Raises:
        CheckpointError: if it is not such JSON, or a field is missing, of another type or length.
    """
    fields = parse_json(text, source)
    expected = [f.name for f in dataclasses.fields(PanopticClasses)]
    if not isinstance(fields, dict) or sorted(fields) != sorted(expected):
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise CheckpointError(_message(source, f"expected the fields {expected}, found {found}"))
    for field, values in fields.items():
        is_valid, what = _CHECKS[field.partition("_")[2]]
        if not isinstance(values, list) or not all(map(is_valid, values)):
            raise CheckpointError(_message(source, f"{field} must be a list of {what}"))
    for field, other in _LIKE.items():
        if len(fields[field]) != len(fields[other]):
            problem = f"{len(fields[field])} {field} for {len(fields[other])} {other}"
            raise CheckpointError(_message(source, problem))
    if len(fields["stuff_classes"]) != 1 + len(fields["stuff_dataset_ids"]):
        raise CheckpointError(
            _message(source, "stuff_classes must be 'things' and a name per stuff_dataset_ids")
        )
    try:
        return PanopticClasses(**{field: _tuples(values) for field, values in fields.items()})
    except DatasetError as error:
        raise CheckpointError(_message(source, str(error))) from error


def _message(source: str, problem: str) -> str:
    return f"{source} does not hold the classes of a model: {problem}"


def _is_id(value: Any) -> bool:
    return type(value) is int


_CHECKS = {
    "classes": (lambda value: isinstance(value, str), "names"),
    "colors": (is_color, "colors, three integers in 0..255 each"),
    "dataset_ids": (_is_id, "integers"),
    "segment_ids": (_is_id, "integers"),
}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
