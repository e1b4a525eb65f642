import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from panoptic_lovasz.evaluation import PanopticQualityEvaluator
from panoptic_lovasz.evaluation.ground_truth import PanopticGroundTruth
from panoptic_lovasz.evaluation.pictures import EvaluationPictures, read_pictures
from panoptic_lovasz.visualization import guard


@pytest.fixture
def warnings_told(caplog):
    """Captures the guard's warnings, wherever the package's logger sends them."""
    guard._told.clear()
    guard.logger.addHandler(caplog.handler)
    yield caplog
    guard.logger.removeHandler(caplog.handler)


def _evaluate(dataset, folder, inputs, outputs, num_fixed=2, num_extreme=1):
    gt = PanopticGroundTruth(dataset)
    pictures = EvaluationPictures(gt, folder, num_fixed, num_extreme)
    evaluator = PanopticQualityEvaluator(dataset, ground_truth=gt, pictures=pictures)
    evaluator.reset()
    for image, output in zip(inputs, outputs, strict=True):
        evaluator.process([image], [output])
    return evaluator.evaluate()


def _blank(output):
    ids, _ = output["panoptic_seg"]
    return {**output, "panoptic_seg": (ids * 0, [])}


def test_a_fixed_set_the_best_and_the_worst_image_are_drawn_with_their_pq(
    dataset, outputs, perfect_outputs, tmp_path
):
    inputs, predictions = outputs()
    predictions[1] = perfect_outputs[1][1]
    predictions[2] = _blank(predictions[2])
    _evaluate(dataset, tmp_path, inputs, predictions)
    made = read_pictures(tmp_path)
    assert [p.kind for p in made] == ["fixed", "fixed", "best", "worst"]
    names = [p.image.split("/")[-1] for p in made]
    assert names == ["0.jpg", "3.jpg", "1.jpg", "2.jpg"]
    assert made[2].pq == 100 and made[3].pq == 0
    assert 0 < made[0].pq < 100
    for picture in made:
        width, height = Image.open(picture.file).size
        assert width > 2.9 * height * 64 / 48 * 0.8  # input, ground truth and prediction


def test_pictures_do_not_change_the_figures(dataset, outputs, tmp_path):
    plain = PanopticQualityEvaluator(dataset)
    for image, output in zip(*outputs(), strict=True):
        plain.process([image], [output])
    expected = plain.evaluate()["panoptic_seg"]
    found = _evaluate(dataset, tmp_path, *outputs())["panoptic_seg"]
    assert found == pytest.approx(expected, nan_ok=True)


def test_parts_of_several_processes_give_the_pictures_of_one(dataset, outputs, tmp_path):
    gt = PanopticGroundTruth(dataset)
    whole = EvaluationPictures(gt, tmp_path / "whole", 3, 1)
    parts = [EvaluationPictures(gt, tmp_path / "parts", 3, 1) for _ in range(2)]
    for n, image in enumerate(DatasetCatalog.get(dataset)):
        prediction = np.zeros((48, 64), np.int32), [], [0.3, 0.1, 0.9, float("nan")][n]
        whole.add(image, *prediction)
        parts[n % 2].add(image, *prediction)
    whole.write([whole.state()])
    parts[0].write([p.state() for p in parts])
    expected = [(p.kind, p.image, p.pq) for p in read_pictures(tmp_path / "whole")]
    assert [(p.kind, p.image, p.pq) for p in read_pictures(tmp_path / "parts")] == expected
    assert [e[1].split("/")[-1] for e in expected] == ["0.jpg", "1.jpg", "3.jpg", "2.jpg", "1.jpg"]


def test_a_picture_that_cannot_be_drawn_is_left_out_with_one_warning(
    dataset, outputs, tmp_path, warnings_told
):
    inputs, predictions = outputs()
    for image in inputs[:2]:
        Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(image["file_name"])
    results = _evaluate(dataset, tmp_path, inputs, predictions, num_fixed=4, num_extreme=0)
    assert results["panoptic_seg"]["PQ"] > 0
    assert [p.image.split("/")[-1] for p in read_pictures(tmp_path)] == ["2.jpg", "3.jpg"]
    warnings = {id(r): r for r in warnings_told.records if r.levelno >= logging.WARNING}
    assert ["could not be made" in r.getMessage() for r in warnings.values()] == [True]
