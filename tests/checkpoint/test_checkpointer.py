import contextlib
import errno
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torch import nn

from panoptic_lovasz.checkpoint import SafeCheckpointer, check_same_classes, save_classes
from panoptic_lovasz.data import PanopticClasses
from panoptic_lovasz.errors import CheckpointError


def _checkpointer(folder, value=0.0):
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    return SafeCheckpointer(model, str(folder))


def _save_two(folder):
    for n in (1, 2):
        _checkpointer(folder, n).save(f"model_{n}", iteration=n)
        os.utime(folder / f"model_{n}.pth", (n, n))


def test_resuming_takes_the_last_checkpoint(tmp_path):
    _save_two(tmp_path)
    checkpointer = _checkpointer(tmp_path)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 2
    assert checkpointer.model.weight.item() == 2


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "gone"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_with_a_warning(
    tmp_path, damage, caplog
):
    _save_two(tmp_path)
    last = tmp_path / "model_2.pth"
    content = bytearray(last.read_bytes())
    if damage == "torn":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        place = content.find(torch.tensor(2.0).numpy().tobytes())
        content[place] ^= 255
        last.write_bytes(content)
    elif damage == "empty":
        last.write_bytes(b"")
    else:
        last.unlink()
    checkpointer = _checkpointer(tmp_path)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert "model_2.pth is damaged" in caplog.text


def test_the_best_checkpoint_is_not_taken_for_a_step_of_the_way(tmp_path):
    _save_two(tmp_path)
    _checkpointer(tmp_path, 9).save("model_best", iteration=0)
    (tmp_path / "last_checkpoint").write_text("model_2.pth")
    (tmp_path / "model_2.pth").write_bytes(b"")
    assert _checkpointer(tmp_path).resume_or_load("", resume=True)["iteration"] == 1


def test_no_intact_checkpoint_is_an_error_that_lists_them(tmp_path):
    _save_two(tmp_path)
    for file in tmp_path.glob("*.pth"):
        file.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"model_2\.pth.*model_1\.pth"):
        _checkpointer(tmp_path).resume_or_load("", resume=True)


def test_a_checkpoint_of_another_network_is_not_resumed(tmp_path):
    _save_two(tmp_path)
    wider = SafeCheckpointer(nn.Linear(1, 3), str(tmp_path))
    with pytest.raises(CheckpointError, match=r"weight is \(1, 1\), expected \(3, 1\).*OUTPUT_DIR"):
        wider.resume_or_load("", resume=True)


def test_an_optimizer_state_that_does_not_fit_is_one_error(tmp_path):
    def checkpointer(frozen):
        model = nn.Linear(1, 1)
        parameters = [model.weight] if frozen else list(model.parameters())
        return SafeCheckpointer(model, str(tmp_path), optimizer=torch.optim.SGD(parameters, lr=1))

    checkpointer(False).save("model_1", iteration=1)
    with pytest.raises(CheckpointError, match="the optimizer or the schedule does not fit"):
        checkpointer(True).resume_or_load("", resume=True)


def _classes(*things):
    categories = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(things, start=1)]
    return PanopticClasses.from_categories([*categories, {"id": 9, "name": "sky", "isthing": 0}])


@pytest.mark.parametrize("now", [("car", "bus", "van"), ("bus", "car"), ("car",), ("car", "van")])
def test_other_classes_are_not_resumed_and_both_are_named(tmp_path, now):
    save_classes(tmp_path, _classes("car", "bus"))
    check_same_classes(tmp_path, _classes("car", "bus"))
    with pytest.raises(CheckpointError) as caught:
        check_same_classes(tmp_path, _classes(*now))
    message = str(caught.value)
    assert "know 3 classes, 2 of things and 1 of stuff (car, bus, sky)" in message
    assert f"has {len(now) + 1} classes, {len(now)} of things" in message
    assert f"({', '.join(now)}, sky)" in message


@pytest.mark.parametrize("weights", ["none.pth", "folder", "http://127.0.0.1:9/none.pth"])
def test_weights_that_are_not_there_are_one_line_with_the_path(tmp_path, weights):
    (tmp_path / "folder").mkdir()
    path = weights if "://" in weights else str(tmp_path / weights)
    with pytest.raises(CheckpointError, match=f"weights {path} (do not exist|cannot be had)"):
        _checkpointer(tmp_path).resume_or_load(path, resume=False)


def test_a_save_that_fails_leaves_the_last_checkpoint_as_it_was(tmp_path, monkeypatch):
    checkpointer = _checkpointer(tmp_path, 1)
    checkpointer.save("model_final", iteration=1)
    before = (tmp_path / "model_final.pth").read_bytes()

    def full(data, f):
        f.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save("model_final", iteration=2)
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            yield tmp_path
            subprocess.run(["umount", str(tmp_path)], check=True)
            return
    pytest.skip("needs the right to mount a small file system")


def test_a_full_disk_is_one_error_and_the_last_checkpoint_is_what_is_resumed(small_disk):
    def checkpointer():
        return SafeCheckpointer(nn.Linear(400, 400), str(small_disk))  # 0.6 MB

    checkpointer().save("model_1", iteration=1)
    with pytest.raises(OSError, match=r"model_2\.pth cannot be written: No space left") as caught:
        checkpointer().save("model_2", iteration=2)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(p.name for p in small_disk.iterdir()) == ["last_checkpoint", "model_1.pth"]
    assert checkpointer().resume_or_load("", resume=True)["iteration"] == 1


def test_weights_that_are_no_dict_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth are a list"):
        _checkpointer(tmp_path).load(str(tmp_path / "list.pth"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda blobs: blobs,  # Detectron2's ImageNet weights
        lambda blobs: {"blobs": {**blobs, "conv1_w_momentum": np.zeros(3)}},  # Detectron1
    ],
)
def test_caffe2_weights_initialize_the_backbone(slim_cfg, tmp_path, wrap):
    model = build_model(slim_cfg)
    shapes = {k: v.shape for k, v in model.backbone.bottom_up.state_dict().items()}
    rng = np.random.default_rng(0)
    stem = rng.random(shapes["stem.conv1.weight"], np.float32)
    block = rng.random(shapes["res2.0.conv1.weight"], np.float32)
    blobs = {"conv1_w": stem, "res2_0_branch2a_w": block}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(wrap(blobs)))
    SafeCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    state = model.backbone.bottom_up.state_dict()
    assert torch.equal(state["stem.conv1.weight"], torch.from_numpy(stem))
    assert torch.equal(state["res2.0.conv1.weight"], torch.from_numpy(block))


def test_pycls_weights_initialize_what_their_names_end_with(slim_cfg, tmp_path):
    model = build_model(slim_cfg)
    name = "stem.conv1.weight"
    value = torch.rand_like(model.backbone.bottom_up.state_dict()[name])
    torch.save({"model_state": {name: value}}, tmp_path / "pycls.pth")
    SafeCheckpointer(model).load(str(tmp_path / "pycls.pth"))
    assert torch.equal(model.backbone.bottom_up.state_dict()[name], value)


@pytest.mark.parametrize("file", ["torchvision.pth", "timm.safetensors"])
def test_torchvision_and_timm_weights_initialize_the_backbone(slim_cfg, tmp_path, file):
    cfg = slim_cfg.clone()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    resnet = torchvision.models.resnet18()
    save = save_file if file.endswith(".safetensors") else torch.save
    save(resnet.state_dict(), tmp_path / file)  # both libraries give the parameters the same names
    model = build_model(cfg)
    SafeCheckpointer(model).load(str(tmp_path / file))
    bottom_up = model.backbone.bottom_up.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = resnet.eval()
        x = features.maxpool(features.relu(features.bn1(features.conv1(image))))
        expected = features.layer4(features.layer3(features.layer2(features.layer1(x))))
        torch.testing.assert_close(bottom_up(image)["res5"], expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w},
        lambda w: {"epoch": 3, "arch": "r", "state_dict": {f"module.{k}": w[k] for k in w}},
        lambda w: {"model": w, "epoch": 3},
    ],
)
def test_weights_are_found_in_what_other_projects_save_around_them(tmp_path, wrap):
    checkpointer = _checkpointer(tmp_path)
    saved = {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([3.0])}
    torch.save(wrap(saved), tmp_path / "other.pth")
    checkpointer.load(str(tmp_path / "other.pth"))
    assert (checkpointer.model.weight.item(), checkpointer.model.bias.item()) == (2, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(1, 1), "epoch": 3}, "'epoch' is a int, expected a tensor"),
        ({"state_dict": [1]}, "are a list, expected a dict of tensors"),
    ],
)
def test_what_is_no_tensor_among_weights_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=rf"other\.pth:? {message}"):
        _checkpointer(tmp_path).load(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("shape", [(2, 2), None])
def test_weights_of_which_nothing_fits_are_refused(tmp_path, shape):
    content = {"weight": torch.ones(shape)} if shape else {"nothing.here": torch.ones(1)}
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth do not belong to the network.*weight"):
        _checkpointer(tmp_path).resume_or_load(str(tmp_path / "other.pth"), resume=False)


def test_weights_that_fit_in_part_are_a_start_but_not_complete(tmp_path):
    torch.save({"weight": torch.ones(1, 1)}, tmp_path / "part.pth")
    _checkpointer(tmp_path).load(str(tmp_path / "part.pth"))
    with pytest.raises(CheckpointError, match="bias is missing"):
        SafeCheckpointer(nn.Linear(1, 1), complete=True).load(str(tmp_path / "part.pth"))
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS is empty"):
        SafeCheckpointer(nn.Linear(1, 1), complete=True).resume_or_load("")


def test_weights_of_other_classes_initialize_all_but_the_heads_and_the_log_lists_these(
    slim_cfg, tmp_path, caplog
):
    other = slim_cfg.clone()
    other.MODEL.ROI_HEADS.NUM_CLASSES = 7
    torch.save(build_model(other).state_dict(), tmp_path / "other.pth")
    model = build_model(slim_cfg)
    SafeCheckpointer(model).load(str(tmp_path / "other.pth"))
    saved = torch.load(tmp_path / "other.pth", weights_only=True)
    name = "roi_heads.box_head.fc1.weight"
    assert torch.equal(model.state_dict()[name], saved[name])
    assert "roi_heads.box_predictor.cls_score.weight" in caplog.text


def test_a_stock_panoptic_fpn_checkpoint_of_detectron2s_zoo_initializes_everything(
    slim_cfg, tmp_path
):
    cfg = slim_cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    stock = {name: tensor.numpy() for name, tensor in build_model(cfg).state_dict().items()}
    content = {"model": stock, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content))
    model = build_model(slim_cfg)
    SafeCheckpointer(model).load(str(tmp_path / "model_final.pkl"))
    assert model.state_dict().keys() == stock.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(stock[name])), name
