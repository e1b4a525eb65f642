import cv2
import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def tiny_cfg(slim_cfg):
    """The slim network on small images, so that a prediction takes little time."""
    cfg = slim_cfg.clone()
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.INPUT.MAX_SIZE_TEST = 96
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    # random weights give every class about the same, low probability
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.0
    cfg.MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT = 1
    return cfg


@pytest.fixture(scope="session")
def predictor(tiny_cfg):
    from panoptic_lovasz.inference import PanopticPredictor

    torch.manual_seed(0)
    return PanopticPredictor(tiny_cfg)


@pytest.fixture
def photo():
    """A uint8 RGB image of some structure."""
    y, x = np.mgrid[:60, :90]
    rng = np.random.default_rng(0)
    image = np.stack([x * 2, y * 4, 255 - x - y], axis=2) + rng.integers(-20, 20, (60, 90, 3))
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def photo_folder(tmp_path, photo):
    """Two good images, a truncated one, an empty one and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "a.png")
    Image.fromarray(photo[:, ::-1].copy()).save(folder / "b.jpg")
    data = (folder / "b.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def cut_off(tmp_path, photo):
    """An .avi file that says it has 20 frames, of which about a third are there."""
    path = tmp_path / "cut.avi"
    size = (photo.shape[1], photo.shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    for _ in range(20):
        writer.write(photo)
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    return path
