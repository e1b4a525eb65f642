"""Names of a package that are resolved when they are used (PEP 562): a part costs what it needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` for the ``__init__`` of a package.

    Args:
        package: its ``__name__``.
        modules: the names that each of its modules (".build") offers. No name may be that of a
            module of the package, which would take its place once it is imported.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def getattr_(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(module_of[name], package), name)
        except ModuleNotFoundError as error:
            if error.name == "detectron2":
                importlib.import_module(".needs_detectron2", __package__)  # its error says more
            raise

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return getattr_, dir_, list(module_of)
