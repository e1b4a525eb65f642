import os
import pickle

import pytest
import torch
from torch import nn

from panoptic_lovasz.checkpoint import find_checkpoint, load_weights, save_classes
from panoptic_lovasz.data import PanopticClasses
from panoptic_lovasz.errors import ConfigError


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "iteration": 3}])
def test_weights_are_loaded_from_a_state_dict_or_from_detectron2s_checkpoint(model, tmp_path, wrap):
    saved = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    torch.save(wrap(saved.state_dict()), tmp_path / "m.pth")
    load_weights(model, tmp_path / "m.pth")
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_carries_code_is_refused_and_the_code_does_not_run(model, tmp_path):
    torch.save({"model": Payload(tmp_path / "ran")}, tmp_path / "m.pth")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ConfigError, match=r"m\.pth hold more than tensors"):
        load_weights(model, tmp_path / "m.pth")
    with pytest.raises(ConfigError, match=r"m\.pkl refer to posix\.mkdir"):
        load_weights(model, tmp_path / "m.pkl")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused_with_what_differs(model, tmp_path):
    torch.save(nn.Sequential(nn.Linear(2, 4)).state_dict(), tmp_path / "m.pth")
    with pytest.raises(ConfigError, match=r"0\.weight is \(4, 2\), expected \(3, 2\).* and 1 more"):
        load_weights(model, tmp_path / "m.pth")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_named(model, tmp_path, content):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"m\.pth"):
        load_weights(model, tmp_path / "m.pth")


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.pth do not exist"):
        load_weights(model, tmp_path / "none.pth")
    with pytest.raises(ConfigError, match=r"none does not exist"):
        find_checkpoint(tmp_path / "none")


def test_weights_without_their_config_are_refused(tmp_path):
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(ConfigError, match=r"no config\.yaml beside it"):
        find_checkpoint(tmp_path)


def test_classes_travel_with_the_checkpoint(tmp_path):
    classes = PanopticClasses.from_categories(
        [
            {"id": 5, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
            {"id": 2, "name": "grass", "isthing": 0},
        ]
    )
    (tmp_path / "config.yaml").touch()
    (tmp_path / "model_final.pth").touch()
    assert find_checkpoint(tmp_path).classes is None
    save_classes(tmp_path, classes)
    assert find_checkpoint(tmp_path).classes == classes
    (tmp_path / "classes.json").write_text('{"thing_classes": 3}')
    with pytest.raises(ConfigError, match=r"classes\.json does not hold the classes"):
        find_checkpoint(tmp_path)
