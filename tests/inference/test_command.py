import itertools
import json
import logging
import os
import signal
from pathlib import Path

import cv2
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
from panoptic_lovasz.data import writer as data_writer
from panoptic_lovasz.data.id_map import write_panoptic_png
from panoptic_lovasz.inference import job
from panoptic_lovasz.inference.inputs import Inputs
from panoptic_lovasz.inference.job import Job
from panoptic_lovasz.inference.video import VideoReader, VideoWriter
from panoptic_lovasz.tools.predict import main
from panoptic_lovasz.visualization import InstanceTracker

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


@pytest.fixture
def clip(photo, tmp_path):
    """A video of three frames, clip.mp4."""
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for i in range(3):
            writer.write(np.roll(photo, 4 * i, axis=1))
    return tmp_path / "clip.mp4"


def test_images_named_by_numbers_or_like_a_videos_frames_share_a_json_with_the_video(
    demo, photo, clip, tmp_path
):
    (tmp_path / "in").mkdir()
    for name in ("2", "clip_000001"):
        Image.fromarray(photo).save(tmp_path / "in" / f"{name}.png")
    for images in (["2.png"], ["2.png", "clip_000001.png"]):
        inputs = [tmp_path / "in" / name for name in images]
        assert demo("--input", *inputs, clip, "--coco", "--no-overlay") == 0
        written = json.loads((tmp_path / "out" / "predictions.json").read_text())
        names = [image["file_name"] for image in written["images"]]
        assert names[: len(images)] == images
        assert len(set(names)) == len(names) == len(images) + 3
        assert len({a["file_name"] for a in written["annotations"]}) == len(names)


def test_frames_of_several_videos_and_cameras_have_names_of_their_own_beside_images(
    demo, photo, clip, tmp_path
):
    images = [tmp_path / f"{name}.png" for name in ("clip_1", "clip_other", "camera_0_000000")]
    for image in images:
        Image.fromarray(photo).save(image)
    videos = [clip, *(clip.with_name(f"{name}.mp4") for name in ("clip_frame", "camera_0"))]
    for video in videos[1:]:
        video.write_bytes(clip.read_bytes())
    assert demo("--input", *images, *videos, "--coco", "--no-overlay") == 0
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    names = [image["file_name"] for image in written["images"]]
    assert len(set(names)) == len(names) == len(images) + 3 * len(videos)
    prefixes = [prefix for *_, prefix in Inputs.from_arguments([*map(str, videos), "0"]).streams()]
    assert len(set(prefixes)) == len(prefixes) == len(videos) + 1


def test_a_camera_named_twice_or_beside_a_video_of_its_name_is_recorded_once_into_its_own_file(
    clip,
):
    video = clip.with_name("camera_0.mp4")
    video.touch()
    streams = Inputs.from_arguments(["0", str(video), "0", "1"]).streams()
    outputs = {source: name for source, name, _ in streams}
    assert outputs == {video: "camera_0", 0: "camera_0_2", 1: "camera_1"}
    assert len(streams) == 3


def test_a_video_whose_name_an_image_begins_with_keeps_it_for_its_frames(tmp_path):
    sources = [tmp_path / name for name in ("clip.mp4", "clip_other.png", "clip_1b.png")]
    for source in sources:
        source.touch()
    ((_, name, prefix),) = Inputs.from_arguments([*map(str, sources)]).streams()
    assert (name, prefix) == ("clip", "clip_")


def test_an_output_that_would_overwrite_an_input_is_refused(demo, photo_folder, capsys):
    before = (photo_folder / "a.png").read_bytes()
    assert demo("--input", photo_folder, output=photo_folder) == 1
    assert "would overwrite an input" in capsys.readouterr().err
    assert (photo_folder / "a.png").read_bytes() == before


def test_a_video_becomes_a_video_of_as_many_frames(demo, clip, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"x")
    inputs = ("--input", clip, tmp_path / "broken.mp4")
    assert demo(*inputs, "--side-by-side", "--coco") == 1
    out = tmp_path / "out"
    for name in ("clip.mp4", "side_by_side/clip.mp4"):
        reader = VideoReader(out / name)
        assert (reader.fps, len(list(reader))) == (10, 3)
    assert [f for f in files(out) if f.endswith(".png")] == [
        f"predictions/clip_{i:06}.png" for i in range(3)
    ]


def test_of_a_video_that_was_cut_off_the_readable_part_is_kept_and_the_exit_code_is_one(
    demo, cut_off, tmp_path, capsys
):
    assert demo("--input", cut_off) == 1
    count = VideoReader(tmp_path / "out" / "cut.mp4").num_frames
    assert f"incomplete: {cut_off}: ended after {count} of 20 frames" in capsys.readouterr().err


def test_each_written_video_has_instances_followed_once_a_frame(demo, clip, monkeypatch):
    seen = {}
    update = InstanceTracker.update

    def count(tracker, *args):
        seen.setdefault(id(tracker), [tracker, 0])[1] += 1
        return update(tracker, *args)

    monkeypatch.setattr(InstanceTracker, "update", count)
    assert demo("--input", clip, "--side-by-side") == 0
    assert [updates for _, updates in seen.values()] == [3, 3]


@pytest.fixture
def camera(photo, monkeypatch):
    """The index of a camera that goes on for longer than any test takes it."""

    class Camera:
        left = 100

        def isOpened(self):
            return True

        def read(self):
            self.left -= 1
            return self.left >= 0, photo if self.left >= 0 else None

        def get(self, key):
            return 10

        def release(self):
            pass

    open_video = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda x: Camera() if x == 7 else open_video(x))
    return 7


@pytest.fixture
def press_ctrl_c(monkeypatch):
    """Have Ctrl-C pressed so many times while the third PNG of the COCO files is written."""

    def press(times):
        calls = itertools.count(1)

        def write(*args):
            for _ in range(times if next(calls) == 3 else 0):
                signal.raise_signal(signal.SIGINT)
            write_panoptic_png(*args)

        monkeypatch.setattr(data_writer, "write_panoptic_png", write)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist ignores it
    yield press
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_ctrl_c_ends_a_recording_and_keeps_it_whatever_it_interrupts(
    demo, camera, press_ctrl_c, tmp_path, batch_size
):
    press_ctrl_c(1)
    options = ("--coco", "--side-by-side", "--batch-size", batch_size)
    assert demo("--input", camera, *options) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    out = tmp_path / "out"
    written = json.loads((out / "predictions.json").read_text())
    count = len(written["images"])
    assert 3 <= count <= 3 + 4 * batch_size
    for name in ("camera_7.mp4", "side_by_side/camera_7.mp4"):
        assert VideoReader(out / name).num_frames == count


def test_a_second_ctrl_c_ends_a_recording_at_once(demo, camera, press_ctrl_c, tmp_path):
    press_ctrl_c(2)
    assert demo("--input", camera, "--coco") == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert files(tmp_path / "out") == []


@pytest.fixture
def data_set(photo, tmp_path):
    """Register "demo_truth": images with these maps and segments, of these categories."""

    def register(categories, maps, segments):
        (tmp_path / "images").mkdir()
        samples = []
        for i, id_map in enumerate(maps):
            Image.fromarray(photo).save(tmp_path / "images" / f"{i}.png")
            samples.append(PanopticSample(f"{i}.png", id_map, segments, image_id=77 + i))
        json_file = tmp_path / "t.json"
        write_coco_panoptic(json_file, tmp_path / "t", categories, samples, progress=False)
        register_coco_panoptic("demo_truth", json_file, tmp_path / "images", tmp_path / "t")

    return register


def test_ground_truth_of_other_classes_is_shown_with_its_own(demo, data_set, monkeypatch):
    names = {10: "dog", 20: "thing 1", 30: "sky"}  # one of them is the model's, too
    categories = [{"id": i, "name": n, "isthing": int(i < 30)} for i, n in names.items()]
    id_map = np.ones((60, 90), np.int32)
    id_map[:20], id_map[20:40] = 2, 3
    data_set(categories, [id_map], [{"id": i, "category_id": 10 * i} for i in (1, 2, 3)])
    drawn = []
    draw = job.draw_comparison
    monkeypatch.setattr(job, "draw_comparison", lambda *a, **k: drawn.append(a) or draw(*a, **k))
    assert demo("--dataset", "demo_truth", "--side-by-side") == 0
    [(_, [truth, prediction], metadata)] = drawn
    classes = {True: metadata["thing_classes"], False: metadata["stuff_classes"]}
    shown = {s["id"]: classes[bool(s["isthing"])][s["category_id"]] for s in truth[2]}
    assert shown == {1: "dog", 2: "thing 1", 3: "sky"}
    assert classes[True] == ["thing 0", "thing 1", "thing 2", "dog"]
    assert max(s["category_id"] for s in prediction[2] if s["isthing"]) < 3


def test_more_classes_than_can_be_shown_together_matter_only_side_by_side(demo, data_set, capsys):
    categories = [{"id": i, "name": f"other {i}", "isthing": 0} for i in range(1, 254)]
    data_set(categories, [np.ones((60, 90), np.int32)], [{"id": 1, "category_id": 1}])
    assert demo("--dataset", "demo_truth") == 0
    assert demo("--dataset", "demo_truth", "--side-by-side") == 1
    assert "stuff categories are too many" in capsys.readouterr().err


def test_an_image_whose_ground_truth_is_of_another_size_is_skipped(
    demo, data_set, predictor, tmp_path, capsys
):
    maps = [np.ones((60, 90), np.int32), np.ones((40, 50), np.int32)]
    data_set(predictor.categories, maps, [{"id": 1, "category_id": 4}])
    assert demo("--dataset", "demo_truth", "--side-by-side") == 1
    assert files(tmp_path / "out") == ["0.png", "side_by_side/0.png"]
    assert "1.png is 50 x 40 pixels, but its image" in capsys.readouterr().err


def test_a_data_set_is_shown_beside_its_ground_truth(demo, data_set, tmp_path, predictor):
    truth = np.ones((60, 90), np.int32)
    data_set(predictor.categories, [truth], [{"id": 1, "category_id": 4}])
    assert demo("--dataset", "demo_truth", "--side-by-side", "--coco") == 0
    out = tmp_path / "out"
    assert Image.open(out / "side_by_side" / "0.png").width > 3 * 90
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
