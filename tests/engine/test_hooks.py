"""The folder that a training leaves, from a training of a few iterations in this process."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage, get_event_storage
from programs import Program

from panoptic_lovasz import Trainer, load_config
from panoptic_lovasz.data import make_shapes
from panoptic_lovasz.engine.hooks import BestCheckpoint, ResultsTable
from panoptic_lovasz.engine.writers import ProgressPrinter, logger
from panoptic_lovasz.reporting.records import read_losses, read_results

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Function that trains with some options and returns OUTPUT_DIR."""
    root = tmp_path_factory.mktemp("datasets")
    make_shapes(root / "shapes", num_train=4, num_val=3, size=64, progress=False)
    before = set(DatasetCatalog.list())

    def train(*options):
        output = tmp_path_factory.mktemp("output")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DETECTRON2_DATASETS", str(root))
            quick = ["SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 2, "TEST.EVAL_PERIOD", 2]
            quick += ["SOLVER.BASE_LR", 0.001, "INPUT.MIN_SIZE_TRAIN", (64,)]
            cfg = load_config(CONFIG, [*quick, "OUTPUT_DIR", str(output), *options])
            (output / "config.yaml").write_text(cfg.dump())
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=False)
            trainer.train()
        return output

    yield train
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture(scope="module")
def trained(train):
    return train()


def test_results_csv_has_one_row_per_evaluation(trained):
    rows = read_results(trained)
    assert [row["iteration"] for row in rows] == [2, 3]
    last = {}
    for line in (trained / "metrics.json").read_text().splitlines():
        last.update(json.loads(line))
    assert rows[-1]["panoptic_seg/PQ"] == pytest.approx(last["panoptic_seg/PQ"])
    assert rows[-1]["sem_seg/mIoU"] == pytest.approx(last["sem_seg/mIoU"])
    assert not any("loss" in key or key.startswith("rpn/") for key in rows[-1])


def test_plots_pictures_and_the_report_are_there(trained):
    names = {p.name for p in (trained / "plots").iterdir()}
    assert names >= {f"{n}.png" for n in ("losses", "evaluation", "pq_by_class", "iou_by_class")}
    for iterations in ("0000002", "0000003"):
        assert len(list((trained / "pictures" / iterations).glob("*/fixed_*.jpg"))) == 3
    page = (trained / "report.html").read_text()
    for text in ("Classes, the worst first", "Predicted worst", "Data", "SOLVER.MAX_ITER: 3"):
        assert text in page


def test_tensorboard_has_the_fixed_pictures_of_every_evaluation(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(trained), {"images": 0})
    events.Reload()
    tags = events.Tags()["images"]
    assert sorted(tags) == [f"shapes_val/fixed_{n}" for n in (1, 2, 3)]
    assert len(events.Images(tags[0])) == 2


def test_the_folder_is_all_that_a_predictor_needs(trained, tmp_path):
    program = tmp_path / "predict.py"
    program.write_text(
        "import sys; from panoptic_lovasz.inference.predictor import PanopticPredictor\n"
        "print(*PanopticPredictor.from_checkpoint(sys.argv[1]).classes.thing_classes)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DETECTRON2_DATASETS"}
    command = [str(program), str(trained / "model_best.pth")]
    stdout, stderr = Program(command, tmp_path, environment).communicate()
    assert stdout.split() == ["disc", "square", "triangle", "star"], stderr


def test_data_statistics_count_what_the_annotations_have(trained):
    with open(trained / "data_statistics.csv") as f:
        rows = list(csv.DictReader(f))
    assert {row["data set"] for row in rows} == {"shapes_train, 4 images", "shapes_val, 3 images"}
    sky = rows[[row["class"] for row in rows].index("sky")]
    assert sky["images"] == "4" and float(sky["pixels, %"]) > 10


def test_each_part_can_be_switched_off(train):
    off = ["PLOTS", False, "NUM_PICTURES", 0, "BEST_METRIC", ""]
    off += ["REPORT", False, "PROGRESS_LINE", False]
    off = [f"OUTPUT.{x}" if isinstance(x, str) and x.isupper() else x for x in off]
    output = train(*off)
    names = {p.name for p in output.iterdir()}
    assert names.isdisjoint({"plots", "pictures", "report.html", "model_best.pth", "run.json"})
    assert {"metrics.json", "results.csv", "model_final.pth", "classes.json"} <= names
    assert not (output / "inference/shapes_val/pictures").exists()


def test_a_failure_in_drawing_does_not_stop_the_training(train, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no drawing today")

    monkeypatch.setattr("panoptic_lovasz.reporting.plots.curves", fail)
    monkeypatch.setattr("panoptic_lovasz.engine.hooks.write_report_page", fail)
    output = train()
    assert (output / "model_final.pth").is_file()
    assert (output / "plots/pq_by_class.png").is_file()
    assert not (output / "report.html").exists()


class _Checkpointer:
    """Remembers what is saved, as Detectron2's does in files."""

    def __init__(self, folder):
        self.folder, self.saved, self.last = folder, [], None

    def save(self, name, **state):
        self.saved.append((name, state["iteration"]))
        self.last = f"{name}.pth"
        (self.folder / self.last).touch()

    def get_checkpoint_file(self):
        return str(self.folder / self.last) if self.last else ""

    def tag_last_checkpoint(self, name):
        self.last = name


def _evaluations(folder, checkpointer, values, start=0, max_iter=100):
    """Run the hooks over evaluations at every tenth iteration with these PQ."""
    hooks = ResultsTable(10, folder), BestCheckpoint(10, folder, checkpointer, "panoptic_seg/PQ")
    trainer = SimpleNamespace(start_iter=start, max_iter=max_iter, iter=start)
    with EventStorage(start) as trainer.storage:
        for hook in hooks:
            hook.trainer = trainer
            hook.before_train()
        for n, value in enumerate(values):
            trainer.iter = trainer.storage.iter = start + 10 * n + 9
            trainer.storage.put_scalar("panoptic_seg/PQ", value, smoothing_hint=False)
            for hook in hooks:
                hook.after_step()


def test_the_best_model_is_kept_also_over_a_resume(tmp_path):
    checkpointer = _Checkpointer(tmp_path)
    checkpointer.last = "model_0000009.pth"
    _evaluations(tmp_path, checkpointer, [30.0, float("nan"), 50.0, 40.0])
    assert checkpointer.saved == [("model_best", 9), ("model_best", 29)]
    assert checkpointer.last == "model_0000009.pth"  # a resume goes on from the last, not the best
    _evaluations(tmp_path, checkpointer, [45.0, 51.0], start=40)
    assert checkpointer.saved[2:] == [("model_best", 59)]
    assert [row["iteration"] for row in read_results(tmp_path)] == [10, 20, 30, 40, 50, 60]


def test_losses_of_a_run_that_went_back_replace_the_later_ones(tmp_path):
    lines = [{"iteration": i, "total_loss": float(i)} for i in (19, 39, 59)]
    lines.append({"iteration": 60, "panoptic_seg/PQ": 1.0})
    lines += [{"iteration": i, "total_loss": -1.0} for i in (39, 59)]
    text = "\n".join(map(json.dumps, lines)) + '\n{"iteration": 79, "total_l'
    (tmp_path / "metrics.json").write_text(text)
    assert read_losses(tmp_path) == {"total_loss": ([20, 40, 60], [19.0, -1.0, -1.0])}


def test_progress_is_one_line_with_iteration_eta_losses_results_and_memory(caplog):
    logger.addHandler(caplog.handler)
    level = logger.level
    logger.setLevel("INFO")
    try:
        with EventStorage(0) as storage:
            storage.iter = 399
            storage.put_scalars(loss_cls=0.5, loss_sem_seg_lovasz=0.25, total_loss=0.75, time=0.5)
            storage.put_scalar("panoptic_seg/PQ", 61.23, smoothing_hint=False)
            ProgressPrinter(1000).write()
            assert get_event_storage().latest()["eta_seconds"][0] == 300
            storage.iter = 1000
            ProgressPrinter(1000).write()
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    (line,) = {record.getMessage() for record in caplog.records}
    for part in (
        "iter 400/1000",
        "eta 0:05:00",
        "0.5 s/iter",
        "loss 0.75 (class 0.5, lovasz 0.25)",
        "PQ 61.2",
        "GPU memory" if torch.cuda.is_available() and torch.cuda.max_memory_allocated() else "RAM",
    ):
        assert part in line
