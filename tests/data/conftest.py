import sys
from pathlib import Path

import pytest

from panoptic_lovasz.data import PanopticClasses, make_shapes

sys.path.insert(0, str(Path(__file__).parent))  # `from tiny_set import ...` in the tests beside it

from tiny_set import CATEGORIES, TinySet


@pytest.fixture
def tiny_set(tmp_path) -> TinySet:
    tiny = TinySet(tmp_path / "tiny")
    tiny.write_all()
    return tiny


@pytest.fixture
def tiny_classes() -> PanopticClasses:
    return PanopticClasses.from_categories(CATEGORIES)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A few generated images, 96 x 96."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(root, num_train=12, num_val=3, size=96, progress=False)
