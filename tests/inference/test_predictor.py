import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.engine import DefaultPredictor
from PIL import Image

from panoptic_lovasz.checkpoint import save_classes
from panoptic_lovasz.data import PanopticClasses
from panoptic_lovasz.errors import ConfigError, DatasetError
from panoptic_lovasz.inference import PanopticPredictor

CLASSES = PanopticClasses.from_categories(
    [{"id": i, "name": f"object {i}", "isthing": 1} for i in range(3)]
    + [{"id": 10 + i, "name": f"ground {i}", "isthing": 0} for i in range(4)]
)


def assert_same(a, b):
    np.testing.assert_array_equal(a.segment_map, b.segment_map)
    assert a.segments == b.segments


@pytest.fixture
def checkpoint_folder(tmp_path, tiny_cfg, predictor):
    """What a training leaves behind."""
    (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
    state = {"model": predictor.model.state_dict(), "iteration": 7, "optimizer": {"lr": 0.1}}
    torch.save(state, tmp_path / "model_final.pth")
    save_classes(tmp_path, CLASSES)
    return tmp_path


def test_a_prediction_says_what_detectron2s_own_predictor_says(checkpoint_folder, tiny_cfg, photo):
    cfg = tiny_cfg.clone()
    cfg.MODEL.WEIGHTS = str(checkpoint_folder / "model_final.pth")
    output = DefaultPredictor(cfg)(photo[..., ::-1])
    result = PanopticPredictor(cfg)(photo)
    np.testing.assert_array_equal(result.segment_map, output["panoptic_seg"][0].numpy())
    expected = [
        (s["id"], s["category_id"], s["isthing"], s.get("score"))
        for s in output["panoptic_seg"][1]
        if (result.segment_map == s["id"]).any()
    ]
    assert len(expected) > 2
    assert expected == [(s.id, s.category_id, s.isthing, s.score) for s in result.segments]


def test_a_checkpoint_folder_is_enough(checkpoint_folder, predictor, photo):
    for path in (checkpoint_folder, checkpoint_folder / "model_final.pth"):
        loaded = PanopticPredictor.from_checkpoint(path)
        assert loaded.classes == CLASSES
        np.testing.assert_array_equal(loaded(photo).segment_map, predictor(photo).segment_map)
    assert {s.class_name.split()[0] for s in loaded(photo).segments} <= {"object", "ground"}


def test_without_a_final_model_the_last_checkpoint_is_taken(checkpoint_folder):
    (checkpoint_folder / "model_final.pth").rename(checkpoint_folder / "model_0000099.pth")
    with pytest.raises(ConfigError, match=r"no checkpoint: looked for \['model_final.pth', 'model"):
        PanopticPredictor.from_checkpoint(checkpoint_folder)
    (checkpoint_folder / "last_checkpoint").write_text("model_0000099.pth")
    PanopticPredictor.from_checkpoint(checkpoint_folder)


def test_options_change_the_checkpoints_config(checkpoint_folder):
    loaded = PanopticPredictor.from_checkpoint(
        checkpoint_folder, ["INPUT.MIN_SIZE_TEST", 32], batch_size=2
    )
    assert loaded.cfg.INPUT.MIN_SIZE_TEST == 32
    assert loaded.batch_size == 2


def test_without_known_classes_they_are_numbered(predictor):
    assert [c["name"] for c in predictor.categories][:4] == [
        "thing 0",
        "thing 1",
        "thing 2",
        "stuff 1",
    ]
    assert PanopticClasses.from_categories(predictor.categories) == predictor.classes


def test_classes_are_those_of_the_configs_data_set_that_is_known_and_has_as_many(tiny_cfg):
    few = PanopticClasses.from_categories([{"id": 1, "name": "a", "isthing": 1}])
    cfg = tiny_cfg.clone()
    cfg.DATASETS.TEST = ("coco_2017_val", "few_val", "unheard_of_val", "fitting_val")
    MetadataCatalog.get("few_val").set(**few.metadata())
    MetadataCatalog.get("fitting_val").set(**CLASSES.metadata())
    try:
        assert PanopticPredictor(cfg).classes == CLASSES
    finally:
        for name in ("few_val", "unheard_of_val", "fitting_val"):
            MetadataCatalog.pop(name)


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
def test_the_network_gets_images_as_detectron2_reads_them(tiny_cfg, photo, tmp_path, image_format):
    cfg = tiny_cfg.clone()
    cfg.INPUT.FORMAT = image_format
    if image_format == "L":
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [110.0], [58.0]
    predictor = PanopticPredictor(cfg)
    Image.fromarray(photo).save(tmp_path / "a.png")
    mapped = DatasetMapper(cfg, False)({"file_name": str(tmp_path / "a.png")})
    assert torch.equal(predictor.network_input(photo), mapped["image"])
    assert predictor(photo).segment_map.shape == (60, 90)


def test_paths_arrays_and_pil_images_give_the_same_result(predictor, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "a.png")
    by_path, by_name, by_array, by_pil = predictor.predict(
        [tmp_path / "a.png", str(tmp_path / "a.png"), photo, Image.fromarray(photo)]
    )
    assert by_path.source == by_name.source == tmp_path / "a.png"
    assert by_array.source is None
    for other in (by_name, by_array, by_pil):
        assert_same(by_path, other)


def test_batches_of_mixed_sizes_give_the_results_of_single_images_in_order(
    predictor, tiny_cfg, photo
):
    batched = PanopticPredictor(tiny_cfg, batch_size=3)
    batched.model.load_state_dict(predictor.model.state_dict())
    sizes = [(60, 90), (60, 60), (60, 90), (30, 90), (60, 90), (60, 60), (60, 90), (50, 40)]
    images = [np.roll(photo, i, axis=1)[:h, :w] for i, (h, w) in enumerate(sizes)]
    calls = []
    batched.model.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    results = list(batched.predict(iter(images)))
    assert len(results) == len(images)
    assert max(calls) == 3 and sum(calls) == len(images)
    for image, result in zip(images, results, strict=True):
        assert result.image.shape == image.shape
        expected = predictor(image)
        assert (result.segment_map == expected.segment_map).mean() > 0.99  # batches round otherwise


def test_images_are_read_only_as_they_are_needed(predictor, photo):
    taken = []

    def stream():
        for i in range(100):
            taken.append(i)
            yield photo

    results = predictor.predict(stream())
    next(results)
    assert len(taken) == 1


def test_an_unreadable_image_raises_or_is_handed_to_the_caller(predictor, photo_folder):
    files = sorted(photo_folder.glob("*.[pj][np]g"))
    with pytest.raises(DatasetError, match=r"cut\.jpg"):
        list(predictor.predict(files))
    errors = []
    results = list(predictor.predict(files, on_error=errors.append))
    assert [r.source.name for r in results] == ["a.png", "b.jpg"]
    assert ["cut.jpg" in str(errors[0]), "empty.png" in str(errors[1])] == [True, True]


def test_a_damaged_pil_image_is_handed_to_the_caller_like_a_damaged_file(predictor, photo_folder):
    errors = []
    with Image.open(photo_folder / "cut.jpg") as cut, Image.open(photo_folder / "a.png") as good:
        results = list(predictor.predict([cut, good], on_error=errors.append))
    assert len(results) == 1
    assert [str(error).startswith("image 0: it cannot be read") for error in errors] == [True]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_stream_may_fill_the_same_array_anew_for_every_image(tiny_cfg, batch_size):
    buffer = np.zeros((60, 90, 3), np.uint8)

    def stream():
        for value in (0, 90, 180):
            buffer[:] = value
            yield buffer

    results = list(PanopticPredictor(tiny_cfg, batch_size=batch_size).predict(stream()))
    assert [result.image.mean() for result in results] == [0, 90, 180]


@pytest.mark.parametrize("kind", ["array", "gray", "path", "text", "PIL"])
def test_a_single_image_is_one_image(predictor, photo, tmp_path, kind):
    Image.fromarray(photo).save(tmp_path / "a.png")
    image = {
        "array": photo,
        "gray": photo[..., 0],
        "path": tmp_path / "a.png",
        "text": str(tmp_path / "a.png"),
        "PIL": Image.fromarray(photo),
    }[kind]
    (result,) = predictor.predict(image)
    assert_same(result, predictor(image))


def test_an_array_of_the_wrong_kind_is_named_by_its_place(predictor, photo):
    with pytest.raises(DatasetError, match=r"image 1: expected a uint8 or uint16 array"):
        list(predictor.predict([photo, photo / 255]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 3)])
def test_images_of_hardly_any_pixels_are_predicted(predictor, shape):
    result = predictor(np.full((*shape, 3), 90, np.uint8))
    assert result.segment_map.shape == shape
    assert result.overlay().dtype == np.uint8


def test_an_image_without_a_thing_or_without_stuff_is_predicted(predictor, tiny_cfg, photo):
    for key, value, kind in [
        ("INSTANCES_CONFIDENCE_THRESH", 2.0, True),
        ("STUFF_AREA_LIMIT", 10**9, False),
    ]:
        cfg = tiny_cfg.clone()
        cfg.merge_from_list([f"MODEL.PANOPTIC_FPN.COMBINE.{key}", value])
        limited = PanopticPredictor(cfg)
        limited.model.load_state_dict(predictor.model.state_dict())
        result = limited(photo)
        assert result.segments
        assert not any(s.isthing is kind for s in result.segments)
        result.overlay()


def test_an_image_with_no_segment_at_all_is_predicted(predictor, tiny_cfg, photo):
    cfg = tiny_cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 2.0
    cfg.MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT = 10**9
    result = PanopticPredictor(cfg)(photo)
    assert result.segments == ()
    assert (result.segment_map == 0).all()
    result.overlay()


def test_mixed_precision_gives_nearly_the_same_segmentation(predictor, tiny_cfg, photo):
    cfg = tiny_cfg.clone()
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 2.0  # stuff alone: no ties
    full, mixed = PanopticPredictor(cfg), PanopticPredictor(cfg, amp=True)
    mixed.model.load_state_dict(full.model.state_dict())
    dtypes = set()
    mixed.model.sem_seg_head.predictor.register_forward_hook(
        lambda module, args, output: dtypes.add(output.dtype)
    )
    a, b = full(photo), mixed(photo)
    assert dtypes == {torch.bfloat16}
    assert (a.segment_map == b.segment_map).mean() > 0.9


def test_a_device_that_is_not_there_is_an_error_but_the_configs_falls_back(tiny_cfg):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match="device is 'cuda', which cannot be used here"):
        PanopticPredictor(tiny_cfg, device="cuda")
    cfg = tiny_cfg.clone()
    cfg.MODEL.DEVICE = "cuda"
    assert PanopticPredictor(cfg).cfg.MODEL.DEVICE == "cpu"


@pytest.mark.parametrize("name", ["warp", "gpu", "hpu", "meta", "mps"])
def test_a_device_without_tensors_is_one_line_wherever_it_is_named(tiny_cfg, name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has MPS")
    cfg = tiny_cfg.clone()
    cfg.MODEL.DEVICE = name
    for options, field in [({}, r"MODEL\.DEVICE"), ({"device": name}, "device")]:
        message = rf"^{field} is '{name}', which cannot be used here: .*--device cpu"
        with pytest.raises(ConfigError, match=message) as caught:
            PanopticPredictor(cfg, **options)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cpu:0", torch.device("cpu")])
def test_a_device_may_have_an_index_or_be_pytorchs(tiny_cfg, device, photo):
    predictor = PanopticPredictor(tiny_cfg, device=device)
    assert str(device) == predictor.cfg.MODEL.DEVICE
    assert predictor(photo).segments


def test_a_network_without_a_panoptic_segmentation_is_refused_when_the_predictor_is_made(tiny_cfg):
    cfg = tiny_cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    with pytest.raises(ConfigError, match="'SemanticSegmentor', which gives no panoptic segment"):
        PanopticPredictor(cfg)


def test_classes_that_do_not_fit_the_network_are_refused(tiny_cfg):
    classes = PanopticClasses.from_categories([{"id": 1, "name": "a", "isthing": 1}])
    with pytest.raises(ConfigError, match=r"1 thing and 1 semantic classes .* are \(3, 5\)"):
        PanopticPredictor(tiny_cfg, classes=classes)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"array_order": "rgb"}, "array_order is 'rgb'")],
)
def test_wrong_options_are_named(tiny_cfg, options, message):
    with pytest.raises(ConfigError, match=message):
        PanopticPredictor(tiny_cfg, **options)
