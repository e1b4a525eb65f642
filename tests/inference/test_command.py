import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from programs import Program

from panoptic_lovasz.data import (
    PanopticSample,
    load_coco_panoptic_json,
    register_coco_panoptic,
    write_coco_panoptic,
)
from panoptic_lovasz.inference.job import Job
from panoptic_lovasz.inference.video import VideoReader, VideoWriter
from panoptic_lovasz.tools.predict import main

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_cfg, predictor):
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "config.yaml").write_text(tiny_cfg.dump())
    torch.save(predictor.model.state_dict(), folder / "model_final.pth")
    return folder


@pytest.fixture
def demo(checkpoint, tmp_path):
    """Run the demo on inputs; returns its exit code. The output folder is tmp_path / "out"."""

    def demo(*args, model=("--checkpoint", str(checkpoint)), output=tmp_path / "out"):
        return main([*model, "--output", str(output), *map(str, args)])

    return demo


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_folder_becomes_overlays_and_broken_files_are_reported_and_skipped(
    demo, photo_folder, tmp_path, capsys
):
    assert demo("--input", photo_folder) == 1
    assert files(tmp_path / "out") == ["a.png", "b.png"]
    printed = capsys.readouterr()
    assert "2 pictures" in printed.out and "2 inputs skipped" in printed.out
    skipped = [line for line in printed.err.splitlines() if "skipped:" in line]
    assert ["cut.jpg" in skipped[0], "empty.png" in skipped[1], len(skipped)] == [True, True, 2]


def test_all_good_is_exit_code_zero(demo, photo_folder, tmp_path):
    assert demo("--input", photo_folder / "a.png", photo_folder / "b.jpg", "--amp") == 0
    assert files(tmp_path / "out") == ["a.png", "b.png"]


def test_onnx_runtime_predicts_what_pytorch_does(demo, photo_folder, tmp_path):
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="ONNX needs the extra packages of [export]")
    written = {}
    for backend in ("torch", "onnx"):
        folder = tmp_path / backend
        options = ("--backend", backend, "--coco", "--no-overlay")
        assert demo("--input", photo_folder / "a.png", *options, output=folder) == 0
        written[backend] = np.asarray(Image.open(folder / "predictions" / "a.png"))
    assert (written["onnx"] == written["torch"]).mean() > 0.999


def test_side_by_side_and_coco_files_are_written_on_request(demo, photo_folder, tmp_path):
    pattern = str(photo_folder / "[ab].*")
    options = ("--no-overlay", "--side-by-side", "--coco", "--batch-size", 2)
    assert demo("--input", pattern, *options) == 0
    out = tmp_path / "out"
    assert files(out) == [
        "predictions.json",
        "predictions/a.png",
        "predictions/b.png",
        "side_by_side/a.png",
        "side_by_side/b.png",
    ]
    dicts = load_coco_panoptic_json(out / "predictions.json", photo_folder, out / "predictions")
    assert len(dicts) == 2
    overlay = Image.open(out / "side_by_side" / "a.png")
    assert overlay.width > 2 * 90


def test_files_of_one_name_do_not_overwrite_each_other(demo, photo, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(photo).save(tmp_path / folder / "same.png")
    Image.fromarray(photo).save(tmp_path / "x" / "same.jpg")
    assert demo("--input", tmp_path / "x", tmp_path / "y") == 0
    assert files(tmp_path / "out") == ["same.png", "same_2.png", "same_3.png"]


def test_coco_files_name_the_images_that_they_are_of(demo, photo, tmp_path):
    names = ["x/same.jpg", "x/same.png", "y/same.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(photo).save(tmp_path / name)
    assert demo("--input", tmp_path / "x", tmp_path / "y", "--coco", "--no-overlay") == 0
    out = tmp_path / "out"
    dicts = load_coco_panoptic_json(out / "predictions.json", tmp_path, out / "predictions")
    assert [d["file_name"] for d in dicts] == [str(tmp_path / name) for name in names]
    assert len({d["pan_seg_file_name"] for d in dicts}) == 3


def test_an_image_of_too_many_pixels_is_skipped(demo, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.fromarray(photo).save(tmp_path / "large.png")
    arguments = ("--input", tmp_path / "large.png", "--max-pixels")
    assert demo(*arguments, photo.shape[0] * photo.shape[1] - 1) == 1
    assert "large.png" in (error := capsys.readouterr().err) and "--max-pixels" in error
    assert demo(*arguments, photo.shape[0] * photo.shape[1]) == 0


def test_numeric_names_become_image_ids_as_in_coco(demo, photo, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("000000000139", "000000000285"):
        Image.fromarray(photo).save(tmp_path / "in" / f"{name}.jpg")
    assert demo("--input", tmp_path / "in", "--coco", "--no-overlay") == 0
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [a["image_id"] for a in written["annotations"]] == [139, 285]


def test_an_output_that_would_overwrite_an_input_is_refused(demo, photo_folder, capsys):
    before = (photo_folder / "a.png").read_bytes()
    assert demo("--input", photo_folder, output=photo_folder) == 1
    assert "would overwrite an input" in capsys.readouterr().err
    assert (photo_folder / "a.png").read_bytes() == before


def test_a_video_becomes_a_video_of_as_many_frames(demo, photo, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for i in range(3):
            writer.write(np.roll(photo, 4 * i, axis=1))
    (tmp_path / "broken.mp4").write_bytes(b"x")
    inputs = ("--input", tmp_path / "clip.mp4", tmp_path / "broken.mp4")
    assert demo(*inputs, "--side-by-side", "--coco") == 1
    out = tmp_path / "out"
    for name in ("clip.mp4", "side_by_side/clip.mp4"):
        reader = VideoReader(out / name)
        assert (reader.fps, len(list(reader))) == (10, 3)
    assert [f for f in files(out) if f.endswith(".png")] == [
        f"predictions/clip_{i:06}.png" for i in range(3)
    ]


def test_a_data_set_is_shown_beside_its_ground_truth(demo, photo, tmp_path, predictor):
    (tmp_path / "images").mkdir()
    Image.fromarray(photo).save(tmp_path / "images" / "one.png")
    truth = np.ones((60, 90), np.int32)
    sample = PanopticSample("one.png", truth, [{"id": 1, "category_id": 4}], image_id=77)
    json_file = tmp_path / "t.json"
    write_coco_panoptic(json_file, tmp_path / "t", predictor.categories, [sample], progress=False)
    register_coco_panoptic("demo_truth", json_file, tmp_path / "images", tmp_path / "t")
    assert demo("--dataset", "demo_truth", "--side-by-side", "--coco") == 0
    out = tmp_path / "out"
    assert Image.open(out / "side_by_side" / "one.png").width > 3 * 90
    written = json.loads((out / "predictions.json").read_text())
    assert written["annotations"][0]["image_id"] == 77


def test_a_higher_confidence_threshold_leaves_fewer_things(demo, photo_folder, tmp_path):
    def things(threshold):
        options = ("--coco", "--no-overlay", "--confidence-threshold", threshold)
        assert demo("--input", photo_folder / "a.png", *options) == 0
        written = json.loads((tmp_path / "out" / "predictions.json").read_text())
        return [s for s in written["annotations"][0]["segments_info"] if "score" in s]

    assert len(things(0)) > 0
    assert things(1) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--input", "nowhere/*.jpg"], "nowhere/*.jpg: there is no such file"),
        (["--dataset", "unheard_of"], "'unheard_of' is not registered"),
        (["--input", __file__, "--no-overlay"], "nothing to write"),
        (["--input", __file__, "--device", "warp"], "device is 'warp', which cannot be used"),
        (["--input", __file__, "--backend", "onnx", "--device", "cuda"], "device is 'cuda', but"),
        (["--input", __file__, "--opts", "NO.SUCH_KEY", "1"], "NO.SUCH_KEY"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_exit_code_one(demo, capsys, args, message):
    assert demo(*args) == 1
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert message in line


def test_a_config_without_weights_says_that_the_network_is_random(
    demo, checkpoint, photo_folder, capsys
):
    model = ("--config-file", str(checkpoint / "config.yaml"))
    assert demo("--input", photo_folder / "a.png", model=model) == 0
    assert "the network is random" in capsys.readouterr().err
    weights = str(checkpoint / "model_final.pth")
    assert (
        demo("--input", photo_folder / "a.png", "--opts", "MODEL.WEIGHTS", weights, model=model)
        == 0
    )
    assert "random" not in capsys.readouterr().err


def test_demo_py_hands_its_exit_code_to_the_shell(tmp_path):
    command = ["demo.py", "--checkpoint", str(tmp_path / "none")]
    command += ["--input", __file__, "--output", str(tmp_path)]
    demo = Program(command, PROJECT, os.environ)
    _, stderr = demo.communicate()
    assert demo.returncode == 1
    assert f"{tmp_path / 'none'}' is not a file" in stderr
    assert "Traceback" not in stderr


def test_ctrl_c_ends_with_the_exit_code_of_an_interrupt(demo, photo_folder, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "run", interrupted)
    # Handlers that other tests left behind would print that their stream is closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    assert demo("--input", photo_folder) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_data_set_that_is_not_here_or_not_panoptic_is_one_message(demo, monkeypatch, capsys):
    name = "cityscapes_fine_panoptic_val"  # Detectron2's loader asserts that it is there
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    assert demo("--dataset", name) == 1
    assert f"error: data set '{name}' cannot be loaded: " in capsys.readouterr().err
    DatasetCatalog.register("demo_boxes", lambda: [{"file_name": "a.jpg", "annotations": []}])
    assert demo("--dataset", "demo_boxes") == 1
    assert "error: data set 'demo_boxes' has no segments_info" in capsys.readouterr().err
