import json
import os

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util

from panoptic_lovasz.data.id_map import read_panoptic_png, write_panoptic_png
from panoptic_lovasz.evaluation import PanopticInstanceEvaluator
from panoptic_lovasz.evaluation.ground_truth import PanopticGroundTruth
from panoptic_lovasz.evaluation.instance_evaluation import derive_instances


def test_derived_instances_are_the_things_of_the_panoptic_png(dataset):
    truth = PanopticGroundTruth(dataset)
    content = derive_instances(truth, progress=False)
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]
    assert [i["id"] for i in content["images"]] == [10, 11, 12, 13]
    first = [a for a in content["annotations"] if a["image_id"] == 10]
    ids = read_panoptic_png(truth.annotations[10].png)
    assert [(a["category_id"], a["iscrowd"]) for a in first] == [(11, 0), (11, 0), (31, 0), (11, 1)]
    for annotation, segment_id in zip(first, (3, 4, 5, 6), strict=True):
        mask = ids == segment_id
        assert np.array_equal(mask_util.decode(annotation["segmentation"]), mask)
        y, x = np.nonzero(mask)
        box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum()


def test_perfect_instances_have_an_ap_of_100(dataset, perfect_outputs, tmp_path):
    evaluator = PanopticInstanceEvaluator(dataset, tmp_path / "out")
    evaluator.reset()
    evaluator.process(*perfect_outputs)
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP-dog"] == pytest.approx(100)


def test_instances_are_derived_where_the_json_of_the_metadata_is_not_there(
    dataset, perfect_outputs, tmp_path, monkeypatch
):
    monkeypatch.setattr(MetadataCatalog.get(dataset), "json_file", "none.json", raising=False)
    evaluator = PanopticInstanceEvaluator(dataset, tmp_path / "out")
    evaluator.reset()
    evaluator.process(*perfect_outputs)
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_misplaced_instances_have_a_lower_ap(dataset, outputs, tmp_path):
    evaluator = PanopticInstanceEvaluator(dataset, tmp_path / "out")
    evaluator.reset()
    evaluator.process(*outputs())
    assert 0 < evaluator.evaluate()["segm"]["AP"] < 90


def test_no_prediction_at_all_is_no_error(dataset, perfect_outputs, tmp_path):
    inputs, outputs = perfect_outputs
    for output in outputs:
        output["instances"] = output["instances"][:0]
    evaluator = PanopticInstanceEvaluator(dataset, tmp_path / "out")
    evaluator.reset()
    evaluator.process(inputs, outputs)
    assert np.isnan(evaluator.evaluate()["bbox"]["AP"])


def test_the_derived_json_is_kept_and_made_anew_when_the_annotation_changes(dataset, tmp_path):
    folder = tmp_path / "out"
    PanopticInstanceEvaluator(dataset, folder)
    (cached,) = folder.glob("*_instances_*.json")
    os.utime(cached, ns=(1, 1))
    PanopticInstanceEvaluator(dataset, folder)
    assert cached.stat().st_mtime_ns == 1
    png = PanopticGroundTruth(dataset).annotations[10].png
    ids = read_panoptic_png(png)
    write_panoptic_png(png, np.where(ids == 3, 1000, ids))
    PanopticInstanceEvaluator(dataset, folder)
    (new,) = set(folder.glob("*_instances_*.json")) - {cached}
    counts = [len(json.loads(f.read_text())["annotations"]) for f in (cached, new)]
    assert counts[0] == counts[1] + 1
