import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.evaluation import PanopticSemSegEvaluator
from panoptic_lovasz.evaluation.ground_truth import PanopticGroundTruth


def evaluate(evaluator, inputs, outputs):
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()["sem_seg"]


def test_semantic_ground_truth_collapses_things_and_ignores_void_and_crowd(dataset):
    truth = PanopticGroundTruth(dataset)
    image = DatasetCatalog.get(dataset)[1]
    ids, labels = truth.id_map(image), truth.semantic_map(image)
    expected = {0: 255, 6: 255, 3: 0, 4: 0, 5: 0, 1000: 1, 70000: 2}
    assert set(np.unique(ids)) == set(expected)
    for segment_id, label in expected.items():
        assert (labels[ids == segment_id] == label).all()


def test_equals_detectron2s_evaluator_on_semantic_pngs(dataset, outputs, tmp_path):
    truth, name = PanopticGroundTruth(dataset), f"{dataset}_sem_seg"
    records = DatasetCatalog.get(dataset)
    for record in records:
        record["sem_seg_file_name"] = str(tmp_path / f"{record['image_id']}.png")
        Image.fromarray(truth.semantic_map(record).astype(np.uint8)).save(
            record["sem_seg_file_name"]
        )
    DatasetCatalog.register(name, lambda: records)
    source = MetadataCatalog.get(dataset).as_dict()
    MetadataCatalog.get(name).set(**{k: v for k, v in source.items() if k != "name"})
    theirs = evaluate(SemSegEvaluator(name, distributed=False), *outputs())
    ours = evaluate(PanopticSemSegEvaluator(dataset), *outputs())
    shared = theirs.keys() & ours.keys()  # Detectron2's main branch has boundary IoU besides
    assert shared == ours.keys() >= {"mIoU", "fwIoU", "pACC", "IoU-things", "ACC-sky"}
    assert {k: theirs[k] for k in shared} == pytest.approx(ours, nan_ok=True)
    assert 30 < ours["mIoU"] < 95


def test_a_perfect_semantic_map_scores_100_and_is_reported(dataset, perfect_outputs, tmp_path):
    results = evaluate(PanopticSemSegEvaluator(dataset, output_dir=tmp_path), *perfect_outputs)
    assert results["mIoU"] == results["pACC"] == 100
    assert json.loads((tmp_path / "sem_seg_evaluation.json").read_text())["IoU-road"] == 100


def test_another_number_of_classes_or_another_size_is_an_error(dataset, outputs):
    evaluator = PanopticSemSegEvaluator(dataset)
    inputs, predictions = outputs()
    predictions[0]["sem_seg"] = predictions[0]["sem_seg"][:2]
    predictions[1]["sem_seg"] = predictions[1]["sem_seg"][:, 1:]
    with pytest.raises(DatasetError, match=r"0.jpg: sem_seg is \(2, 48, 64\), expected \(3, 48"):
        evaluator.process(inputs[:1], predictions[:1])
    with pytest.raises(DatasetError, match=r"1.jpg: sem_seg is \(3, 47, 64\), expected \(3, 48"):
        evaluator.process(inputs[1:], predictions[1:])
