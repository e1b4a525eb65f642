"""Imported first by packages that need Detectron2: one clear error where it is not installed.

pip cannot bring it along, since the package index does not have it.
"""

import importlib.util

if importlib.util.find_spec("detectron2") is None:
    raise ModuleNotFoundError(
        "this part of panoptic_lovasz needs Detectron2, 0.6 or newer, which the package index does "
        "not have: `make setup` in a checkout of the project builds and installs it, docs/setup.md "
        "there has the other ways. The losses (panoptic_lovasz.losses) work without it",
        name="detectron2",
    )
