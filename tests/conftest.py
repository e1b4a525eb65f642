import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton looks at this when it is first imported, by whichever test does that.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from detectron2.config import get_cfg

from panoptic_lovasz import add_panoptic_lovasz_config

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images; it lies beside the project and is not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data folder {SHARED_DATA}, which is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def slim_cfg():
    """A Panoptic FPN of few channels, with random weights, for 3 thing and 4 stuff classes."""
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.merge_from_file(str(PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"))
    cfg.DATASETS.PANOPTIC = []
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    return cfg
