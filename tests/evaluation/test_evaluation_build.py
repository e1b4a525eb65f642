import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from PIL import Image
from programs import Program, workers

from panoptic_lovasz import ConfigError, add_panoptic_lovasz_config, build_evaluator
from panoptic_lovasz.data.id_map import write_panoptic_png

TASKS = {"panoptic_seg", "sem_seg", "bbox", "segm"}


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "PanopticLovaszFPN"
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


def evaluate(evaluator, inputs, outputs):
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()


def test_a_panoptic_data_set_is_evaluated_in_all_three_ways(cfg, dataset, perfect_outputs):
    cfg.TEST.SAVE_PANOPTIC_PREDICTIONS = True
    results = evaluate(build_evaluator(cfg, dataset), *perfect_outputs)
    assert results.keys() == TASKS
    assert results["panoptic_seg"]["PQ"] == results["sem_seg"]["mIoU"] == 100
    assert results["segm"]["AP"] == pytest.approx(100)
    written = {path.name for path in Path(cfg.OUTPUT_DIR, "inference", dataset).iterdir()}
    assert written >= {
        "confusion_matrix.csv",
        "coco_instances_results.json",
        "panoptic_predictions",
        "panoptic_predictions.json",
        "panoptic_quality.csv",
        "panoptic_quality.json",
        "sem_seg_evaluation.json",
    }


@pytest.fixture
def cityscapes(tmp_path):
    """Two images laid out as Cityscapes, registered as Detectron2 does."""
    images, panoptic = tmp_path / "leftImg8bit" / "val", tmp_path / "gtFine" / "pan_val"
    (images / "ulm").mkdir(parents=True)
    (tmp_path / "gtFine" / "val" / "ulm").mkdir(parents=True)
    panoptic.mkdir()
    annotations = []
    for image_id in ("ulm_000000_000019", "ulm_000001_000019"):
        blank = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
        blank.save(images / "ulm" / f"{image_id}_leftImg8bit.png")
        labels = tmp_path / "gtFine" / "val" / "ulm" / f"{image_id}_gtFine_labelTrainIds.png"
        blank.save(labels)
        ids = np.full((40, 60), 7)
        ids[:20] = 23
        ids[10:30, 5:20], ids[10:30, 30:50], ids[35:, 50:] = 24000, 26001, 0
        write_panoptic_png(panoptic / f"{image_id}_gtFine_panoptic.png", ids)
        categories = {7: 7, 23: 23, 24000: 24, 26001: 26}
        annotations.append(
            {
                "image_id": image_id,
                "file_name": f"{image_id}_gtFine_panoptic.png",
                "segments_info": [
                    {"id": i, "category_id": c, "iscrowd": 0, "area": int((ids == i).sum())}
                    for i, c in categories.items()
                ],
            }
        )
    json_file = tmp_path / "pan_val.json"
    json_file.write_text(json.dumps({"annotations": annotations}))
    name = f"cityscapes_{tmp_path.name}"
    builtin = MetadataCatalog.get("cityscapes_fine_panoptic_val").as_dict()
    paths = {"panoptic_json": str(json_file), "panoptic_root": str(panoptic)}
    skipped = ("name", "gt_dir", "image_root", *paths)
    MetadataCatalog.get(name).set(**{k: v for k, v in builtin.items() if k not in skipped}, **paths)
    DatasetCatalog.register(
        name, lambda: load_cityscapes_panoptic(str(images), str(panoptic), str(json_file), builtin)
    )
    return name


def test_detectron2s_cityscapes_registration_works_as_it_is(cfg, cityscapes, predict_perfectly):
    results = evaluate(build_evaluator(cfg, cityscapes), *predict_perfectly(cityscapes))
    assert results.keys() == TASKS
    assert results["panoptic_seg"]["PQ_th"] == results["panoptic_seg"]["PQ_st"] == 100
    assert results["panoptic_seg"]["PQ-car"] == 100
    assert np.isnan(results["panoptic_seg"]["PQ-bus"])
    assert results["sem_seg"]["mIoU"] == 100
    assert results["segm"]["AP-person"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("evaluator_type", "expected"), [("coco", COCOEvaluator), ("sem_seg", SemSegEvaluator)]
)
def test_other_data_sets_get_detectron2s_evaluators(cfg, tmp_path, evaluator_type, expected):
    name = f"{evaluator_type}_{tmp_path.name}"
    json_file = tmp_path / "instances.json"
    json_file.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    DatasetCatalog.register(name, lambda: [{"file_name": "a.jpg", "sem_seg_file_name": "a.png"}])
    MetadataCatalog.get(name).set(
        evaluator_type=evaluator_type,
        json_file=str(json_file),
        stuff_classes=["sky"],
        ignore_label=255,
    )
    (evaluator,) = build_evaluator(cfg, name)._evaluators
    assert type(evaluator) is expected


def test_another_evaluator_type_is_an_error_that_lists_those_there_are(cfg):
    with pytest.raises(ConfigError, match=r"'voc_2007_test' has the evaluator_type 'pascal_voc'"):
        build_evaluator(cfg, "voc_2007_test")


WORKER = """
import json, sys, types, torch
from panoptic_lovasz import add_panoptic_lovasz_config, build_evaluator, launch
from panoptic_lovasz import register_coco_panoptic
from detectron2.config import get_cfg
from detectron2.utils import comm

def main(args):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "PanopticLovaszFPN"
    cfg.OUTPUT_DIR = "output"
    register_coco_panoptic("toy", *args.paths)
    evaluator = build_evaluator(cfg, "toy")
    evaluator.reset()
    inputs, outputs = torch.load("outputs.pth", weights_only=False)
    mine = slice(comm.get_rank(), None, comm.get_world_size())
    evaluator.process(inputs[mine], outputs[mine])
    results = evaluator.evaluate()
    if comm.is_main_process():
        json.dump(results, open("results.json", "w"))
    else:
        assert not results

launch(main, types.SimpleNamespace(num_gpus=0, paths=sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(cfg, dataset, outputs, tmp_path):
    expected = evaluate(build_evaluator(cfg, dataset), *outputs())
    torch.save(outputs(), tmp_path / "outputs.pth")
    (tmp_path / "worker.py").write_text(WORKER)
    metadata = MetadataCatalog.get(dataset)
    paths = metadata.panoptic_json, metadata.image_root, metadata.panoptic_root
    command = ["worker.py", *map(str, paths)]
    processes = [Program(command, tmp_path, os.environ | env) for env in workers(2, 2)]
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results.keys() == expected.keys() == TASKS
    for task in TASKS:
        assert results[task] == pytest.approx(expected[task], nan_ok=True)
