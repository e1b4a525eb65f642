"""The snippets of docs/loss.md for other libraries, and the equalities that it states."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from panoptic_lovasz.losses import (
    cross_entropy_lovasz,
    cross_entropy_region,
    lovasz_hinge,
    lovasz_softmax,
)

DOCS = Path(__file__).resolve().parents[2] / "docs/loss.md"


def run_snippet(library, **names):
    """Run the code below the library's heading; returns all names that there are then."""
    section = DOCS.read_text().split(f"\n### {library}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n### ")[0], re.DOTALL)
    exec(code, names)
    return names


def make(size=(16, 24), channels=6):
    target = torch.randint(0, channels, (2, *size))
    return torch.randn(2, channels, *size), target


def test_segmentation_models_pytorch_leaves_the_upsampling_to_the_loss():
    pytest.importorskip("segmentation_models_pytorch")
    labels = torch.randint(0, 6, (2, 64, 64))
    labels[:, :9] = 255
    names = run_snippet(
        "segmentation-models-pytorch", images=torch.randn(2, 3, 64, 64), labels=labels
    )
    (names["cross_entropy"] + names["lovasz"]).backward()
    assert all(p.grad.isfinite().all() for p in names["model"].segmentation_head.parameters())


def test_segmentation_models_pytorch_has_the_same_losses_by_other_names():
    losses = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = make()
    ignored = target.clone()
    ignored[:, :3] = 255
    found = losses.LovaszLoss("multiclass", ignore_index=255)(logits, ignored)
    torch.testing.assert_close(found, lovasz_softmax(logits, ignored, method="exact"))
    binary, foreground = logits[:, 0], target % 2
    found = losses.LovaszLoss("binary")(binary, foreground)
    torch.testing.assert_close(found, lovasz_hinge(binary, foreground, per_image=False))
    for region, theirs in (("dice", losses.DiceLoss), ("jaccard", losses.JaccardLoss)):
        _, ours = cross_entropy_region(logits, target, scale_factor=1, region=region)
        found = theirs("multiclass", smooth=0)(logits, target)
        torch.testing.assert_close(found, ours, rtol=1e-5, atol=1e-6)


def test_mmsegmentation_finds_the_loss_in_its_registry():
    pytest.importorskip("mmseg.registry")
    models = run_snippet("mmsegmentation")["MODELS"]
    logits, target = make()
    target[0, :4] = 7
    # models.build would import mmseg.models, which wants the compiled mmcv.
    loss = models.module_dict["CrossEntropyLovaszLoss"]()
    assert loss.loss_name == "loss_ce_lovasz"
    expected = sum(cross_entropy_lovasz(logits, target, scale_factor=1, ignore_index=7))
    assert loss(logits, target, weight=None, ignore_index=7) == expected


def test_monai_has_volumes_labels_with_a_channel_and_the_same_region_losses():
    monai = pytest.importorskip("monai.losses")
    logits, target = make((4, 6, 8))
    loss = run_snippet("MONAI")["loss"](logits, target[:, None].float())
    expected = F.cross_entropy(logits, target) + lovasz_softmax(logits, target, classes="all")
    torch.testing.assert_close(loss, expected)
    same = {"softmax": True, "to_onehot_y": True, "smooth_nr": 0, "smooth_dr": 0}
    for region, theirs, options in (
        ("dice", monai.DiceLoss, {}),
        ("jaccard", monai.DiceLoss, {"jaccard": True}),
        ("tversky", monai.TverskyLoss, {"alpha": 0.3, "beta": 0.7}),
    ):
        for per_image in (False, True):
            _, ours = cross_entropy_region(
                logits.flatten(3),
                target.flatten(2),
                scale_factor=1,
                region=region,
                classes="all",
                per_image=per_image,
            )
            found = theirs(batch=not per_image, **same, **options)(logits, target[:, None])
            torch.testing.assert_close(found, ours, rtol=1e-5, atol=1e-6)


def test_lightning_trains_with_it(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")

    class Model(run_snippet("Lightning")["Segmentation"]):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 6, 4, stride=4)

        def forward(self, images):
            return self.layer(images)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = Model()
    before = model.layer.weight.clone()
    data = [(torch.randn(3, 16, 24), torch.randint(0, 6, (16, 24))) for _ in range(2)]
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=2))
    assert {"ce", "lovasz"} <= trainer.logged_metrics.keys()
    assert not torch.equal(model.layer.weight, before)
