"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fault"]


@dataclass(frozen=True)
class Fault:
    """Something wrong, or worth a look, in one place.

    Attributes:
        file: the file that it is in.
        field: the field of the JSON, or "pixels", "size" ... of an image.
        message: value found, value expected.
        is_error: False for what training and evaluation can live with.
    """

    file: str
    field: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        kind = "error" if self.is_error else "warning"
        return f"{kind}: {self.file}: {self.field}: {self.message}"
