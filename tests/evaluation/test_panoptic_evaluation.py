import csv
import json
import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json as load_standard
from detectron2.evaluation import COCOPanopticEvaluator, verify_results
from detectron2.evaluation.testing import flatten_results_dict

from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.evaluation import PanopticQualityEvaluator, evaluate_submission
from panoptic_lovasz.evaluation.report import panoptic_metrics

KEYS = [f"{m}{kind}" for kind in ("", "_th", "_st") for m in ("PQ", "SQ", "RQ")]


def evaluate(evaluator, inputs, outputs):
    evaluator.reset()
    for image, output in zip(inputs, outputs, strict=True):
        evaluator.process([image], [output])
    return evaluator.evaluate()


def assert_same(results, expected):
    assert results["panoptic_seg"] == pytest.approx(expected["panoptic_seg"], nan_ok=True)


def test_a_perfect_prediction_scores_100_and_passes_detectron2s_result_check(
    dataset, perfect_outputs
):
    results = evaluate(PanopticQualityEvaluator(dataset), *perfect_outputs)
    assert {results["panoptic_seg"][key] for key in KEYS} == {100.0}
    assert results["panoptic_seg"]["mIoU"] == results["panoptic_seg"]["mIoU_st_interior"] == 100
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["panoptic_seg", "PQ", 100.0, 0.1]]
    assert verify_results(cfg, results)
    assert flatten_results_dict(results)["panoptic_seg/PQ_st"] == 100.0


def test_equals_detectron2s_evaluator_under_its_keys(dataset, outputs):
    ours = evaluate(PanopticQualityEvaluator(dataset), *outputs())["panoptic_seg"]
    theirs = evaluate(COCOPanopticEvaluator(dataset), *outputs())["panoptic_seg"]
    assert 20 < theirs["PQ"] < 95
    assert ours.keys() >= theirs.keys() == set(KEYS)
    assert [ours[key] for key in KEYS] == pytest.approx([theirs[key] for key in KEYS], abs=1e-9)


@pytest.fixture
def renumbered(dataset):
    """The data set registered as Detectron2 registers COCO: all classes in one range of ids."""
    source, name = MetadataCatalog.get(dataset), f"{dataset}_standard"
    names = ["cat", "dog", "sky", "road"]
    maps = {
        "thing_dataset_id_to_contiguous_id": {11: 0, 31: 1},
        "stuff_dataset_id_to_contiguous_id": {7: 2, 20: 3},
    }
    paths = source.panoptic_json, source.image_root, source.panoptic_root
    DatasetCatalog.register(name, lambda: load_standard(*paths, maps))
    metadata = MetadataCatalog.get(name)
    metadata.set(thing_classes=names, stuff_classes=names, label_divisor=1000, **maps)
    metadata.set(panoptic_json=source.panoptic_json, panoptic_root=source.panoptic_root)
    return name


def test_a_detectron2_registration_gives_the_same_figures(dataset, renumbered, outputs):
    ours = evaluate(PanopticQualityEvaluator(dataset), *outputs())
    assert_same(evaluate(PanopticQualityEvaluator(renumbered), *outputs()), ours)


def test_a_registration_without_segments_in_its_dicts_is_read_from_its_json(dataset, outputs):
    source, name = MetadataCatalog.get(dataset), f"{dataset}_separated"
    records = [{"image_id": r["image_id"]} for r in DatasetCatalog.get(dataset)]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(**{k: v for k, v in source.as_dict().items() if k != "name"})
    ours = evaluate(PanopticQualityEvaluator(dataset), *outputs())
    assert_same(evaluate(PanopticQualityEvaluator(name), *outputs()), ours)
    records.append({"image_id": 99})
    with pytest.raises(DatasetError, match=r"1 of the 5 images .* instance image_id 99"):
        PanopticQualityEvaluator(name)


def test_label_maps_without_segments_info_give_the_same_figures(dataset, renumbered, outputs):
    inputs, predictions = outputs()
    ours = evaluate(PanopticQualityEvaluator(dataset), *outputs())
    for output in predictions:
        ids, segments = output["panoptic_seg"]
        labels = torch.full_like(ids, -1)
        for s in segments:
            category = s["category_id"] if s["isthing"] else s["category_id"] + 1
            labels[ids == s["id"]] = category * 1000 + (s["id"] if s["isthing"] else 0)
        output["panoptic_seg"] = labels, None
    evaluator = PanopticQualityEvaluator(renumbered)
    assert_same(evaluate(evaluator, inputs, predictions), ours)
    predictions[0]["panoptic_seg"][0][0, 0] = 9000
    with pytest.raises(DatasetError, match=r"0.jpg: predicted label 9000 is of category 9"):
        evaluator.process(inputs[:1], predictions[:1])


def test_segments_without_isthing_carry_the_data_sets_own_category_ids(dataset, outputs):
    inputs, predictions = outputs()
    dataset_id = {(True, 0): 11, (True, 1): 31, (False, 1): 7, (False, 2): 20}
    for output in predictions:
        for s in output["panoptic_seg"][1]:
            s["category_id"] = dataset_id[s.pop("isthing"), s["category_id"]]
    ours = evaluate(PanopticQualityEvaluator(dataset), *outputs())
    assert_same(evaluate(PanopticQualityEvaluator(dataset), inputs, predictions), ours)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_predictions_may_be_on_the_gpu(dataset, outputs):
    inputs, predictions = outputs()
    for output in predictions:
        output["panoptic_seg"] = output["panoptic_seg"][0].cuda(), output["panoptic_seg"][1]
    ours = evaluate(PanopticQualityEvaluator(dataset), *outputs())
    assert_same(evaluate(PanopticQualityEvaluator(dataset), inputs, predictions), ours)


def test_saved_predictions_are_a_submission_with_the_same_figures(dataset, outputs, tmp_path):
    out = tmp_path / "out"
    evaluator = PanopticQualityEvaluator(dataset, out, save_predictions=True)
    results = evaluate(evaluator, *outputs())["panoptic_seg"]
    submission = out / "panoptic_predictions.json"
    annotation = json.loads(submission.read_text())["annotations"][0]
    assert annotation["image_id"] == 10
    assert annotation["file_name"] == "0.png"
    assert annotation["segments_info"][0].keys() == {"id", "category_id"}
    quality = evaluate_submission(
        submission, tmp_path / "panoptic.json", gt_dir=tmp_path / "panoptic", progress=False
    )
    again = panoptic_metrics(quality)
    assert [again[key] for key in KEYS] == pytest.approx([results[key] for key in KEYS])
    assert not list(out.rglob("*.tmp"))


def test_reports_are_written_as_json_and_csv(dataset, outputs, tmp_path):
    out = tmp_path / "out"
    results = evaluate(PanopticQualityEvaluator(dataset, out), *outputs())["panoptic_seg"]
    report = json.loads((out / "panoptic_quality.json").read_text())
    assert report["num_images"] == 4
    assert report["metrics"]["PQ"] == results["PQ"]
    with open(out / "panoptic_quality.csv") as f:
        rows = list(csv.DictReader(f))
    assert [(r["id"], r["name"], r["isthing"]) for r in rows[:2]] == [
        ("11", "cat", "True"),
        ("31", "dog", "True"),
    ]
    assert np.mean([float(r["PQ"]) for r in rows]) == pytest.approx(results["PQ"])
    assert float(rows[0]["PQ"]) == results["PQ-cat"]
    with open(out / "confusion_matrix.csv") as f:
        matrix = list(csv.reader(f))
    assert matrix[0] == ["ground truth", "cat", "dog", "sky", "road", "void"]
    pixels = np.array([row[1:] for row in matrix[1:]], dtype=int)
    assert pixels.sum() == 4 * 48 * 64
    diagonal, total = np.diagonal(pixels)[:-1], pixels[:-1].sum(0)[:-1] + pixels[:-1].sum(1)
    assert 100 * np.mean(diagonal / (total - diagonal)) == pytest.approx(results["mIoU"])


def test_what_is_gathered_grows_by_some_hundred_bytes_an_image(dataset, outputs):
    evaluator = PanopticQualityEvaluator(dataset)
    inputs, predictions = outputs()
    evaluator.process(inputs[:1], predictions[:1])
    after_one = len(pickle.dumps((evaluator._quality, evaluator._saved)))
    for _ in range(5):
        evaluator.process(inputs, predictions)
    assert len(pickle.dumps((evaluator._quality, evaluator._saved))) <= after_one + 5 * 400 * len(
        inputs
    )


def test_evaluating_a_part_of_the_images_is_said(dataset, outputs, caplog):
    inputs, predictions = outputs()
    with caplog.at_level(logging.WARNING, logger="panoptic_lovasz"):
        evaluate(PanopticQualityEvaluator(dataset), inputs[:3], predictions[:3])
    assert "3 images were evaluated" in caplog.text
    assert "has 4" in caplog.text


def test_predictions_that_do_not_fit_the_data_set_are_errors_that_name_the_image(dataset, outputs):
    evaluator = PanopticQualityEvaluator(dataset)
    inputs, predictions = outputs()
    predictions[0]["panoptic_seg"][1][0].update(category_id=2, isthing=True)
    with pytest.raises(DatasetError, match=r"0.jpg: .* category_id 2 and isthing True.*0\.\.1"):
        evaluator.process(inputs[:1], predictions[:1])
    del predictions[1]["panoptic_seg"][1][0]
    with pytest.raises(DatasetError, match=r"1.jpg: .*only in the map"):
        evaluator.process(inputs[1:2], predictions[1:2])
    inputs[2]["image_id"] = 5
    with pytest.raises(DatasetError, match=r"2.jpg: image_id 5 is not in the data set"):
        evaluator.process(inputs[2:3], predictions[2:3])
    predictions[3]["panoptic_seg"] = predictions[3]["panoptic_seg"][0], None
    with pytest.raises(DatasetError, match=r"3.jpg: .*needs label_divisor"):
        evaluator.process(inputs[3:], predictions[3:])
    with pytest.raises(ValueError, match="needs an output_dir"):
        PanopticQualityEvaluator(dataset, save_predictions=True)


def test_a_data_set_without_panoptic_annotations_is_an_error(dataset):
    name = f"{dataset}_boxes"
    DatasetCatalog.register(name, lambda: [{"image_id": 1}])
    with pytest.raises(DatasetError, match="no panoptic classes"):
        PanopticQualityEvaluator(name)
    source = MetadataCatalog.get(dataset).as_dict()
    kept = {k: v for k, v in source.items() if k not in ("name", "panoptic_json")}
    MetadataCatalog.get(name).set(**kept)
    with pytest.raises(DatasetError, match="no panoptic ground truth"):
        PanopticQualityEvaluator(name)
