"""The report, made of files that are like a training's, and opened in a real browser."""

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from panoptic_lovasz.config import load_config
from panoptic_lovasz.data.checking.files import ImageFindings
from panoptic_lovasz.data.checking.statistics import Statistics
from panoptic_lovasz.evaluation.panoptic_quality import PanopticQuality
from panoptic_lovasz.evaluation.report import panoptic_metrics, write_report
from panoptic_lovasz.files import write_csv
from panoptic_lovasz.reporting import plots, write_report_page
from panoptic_lovasz.reporting.plots import class_bars, data_bars, save_png
from panoptic_lovasz.reporting.records import add_result, write_run
from panoptic_lovasz.reporting.report import draw_plots

NAMES = ["person", "car", "sky", "road", "<b>fence</b>"]


@pytest.fixture
def folder(tmp_path):
    """An OUTPUT_DIR after a training of 400 iterations with four evaluations."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "output"
    dataset = folder / "inference" / "my_val"
    quality = PanopticQuality(
        [{"id": i, "name": n, "isthing": i <= 2} for i, n in enumerate(NAMES, start=1)]
    )
    for _ in range(8):
        gt = np.kron(rng.integers(1, 6, (4, 4)), np.ones((16, 16), int))
        pred = np.where(rng.random(gt.shape) < 0.15, rng.integers(1, 6, gt.shape), gt)
        maps = []
        for ids in (gt, pred):
            maps += [ids, [{"id": int(i), "category_id": int(i)} for i in np.unique(ids)]]
        quality.add(*maps)
    write_report(quality, panoptic_metrics(quality), dataset)
    pictures = dataset / "pictures"
    pictures.mkdir()
    index = []
    for kind in ("fixed", "best", "worst"):
        pixels = np.kron(rng.integers(0, 255, (6, 18, 3)), np.ones((40, 40, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"{kind}_1.jpg")
        index.append({"kind": kind, "file": f"{kind}_1.jpg", "image": f"val/{kind}.jpg", "PQ": 50})
    (pictures / "pictures.json").write_text(json.dumps(index))
    lines = []
    for i in range(19, 400, 20):
        loss = 3 * 0.99**i + 0.1 * rng.random()
        record = {"iteration": i, "total_loss": 2 * loss, "loss_cls": loss, "loss_mask": loss / 2}
        lines.append(json.dumps(record))
    (folder / "metrics.json").write_text("\n".join(lines))
    for i in range(100, 500, 100):
        keys = ("PQ", "PQ_th", "PQ_st", "SQ", "RQ", "mIoU")
        metrics = {f"panoptic_seg/{k}": 60 - 3000 / i + n for n, k in enumerate(keys)}
        metrics |= {"panoptic_seg/PQ_low": 50.5, "panoptic_seg/PQ_high": 54.5}
        metrics |= {"depth/error": 0.25, "depth/error-sky": 0.75}  # of an evaluator of a user's own
        add_result(folder, i, metrics)
    columns = ["data set", "class", "kind", "images", "instances", "pixels, %"]
    write_csv(folder / "data_statistics.csv", columns, [["my_train", "sky", "stuff", 7, None, 3]])
    (folder / "config.yaml").write_text("SOLVER:\n  MAX_ITER: 400\nVERSION: 2\n")
    record = {"title": "my_train", "command": "python train_net.py --config-file a.yaml"}
    write_run(folder, {**record, "environment": "torch  2", "iterations": 400, "seconds": 61})
    return folder


class _Links(html.parser.HTMLParser):
    """Collects what a browser could load, and the text."""

    def __init__(self, page):
        super().__init__()
        self.links, self.tags, self.text = [], set(), ""
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_everything_and_refers_to_nothing_outside(folder):
    path = write_report_page(folder)
    page = _Links(path)
    assert len(page.links) > 3
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"url\((?!#|data:)|@import", path.read_text())
    assert page.tags.isdisjoint({"script", "link", "iframe", "b"} - {"b"})
    for text in (
        "my_train",
        "python train_net.py --config-file a.yaml",
        "SOLVER.MAX_ITER: 400",
        "val/worst.jpg: PQ of this image 50.0",
        "<b>fence</b>",
        "torch  2",
    ):
        assert text in page.text


def test_classes_are_listed_with_the_worst_first(folder):
    write_report_page(folder)
    rows = json.loads((folder / "inference/my_val/panoptic_quality.json").read_text())["per_class"]
    expected = [r["name"] for r in sorted(rows, key=lambda r: r["PQ"])]
    table = _Links(folder / "report.html").text.split("Classes, the worst first")[1]
    places = [table.index(name) for name in expected]
    assert places == sorted(places)


def test_whatever_an_evaluator_returns_is_on_the_page_with_the_interval_of_what_has_one(folder):
    text = _Links(write_report_page(folder)).text
    assert "95 % intervals over the images: PQ 50.5 to 54.5." in text
    others = text.split("Other metrics of the last evaluation")[1]
    assert "depth/error0.2" in others and "sky0.8" in others


def test_titles_of_plots_lie_within_them_however_long_the_names_of_few_classes_are():
    rows = [{"name": "a class of a long name", "isthing": True, "PQ": 50.0}] * 3
    figure = class_bars("PQ by class", rows, "PQ")
    FigureCanvasAgg(figure).draw()
    title = figure._suptitle.get_window_extent()
    assert title.x0 >= 0 and title.x1 <= figure.bbox.width


def test_the_classes_of_a_data_set_are_drawn_with_their_counts_the_most_frequent_on_top(tmp_path):
    categories = [{"id": i, "name": n, "isthing": i == 1} for i, n in enumerate(NAMES, start=1)]
    statistics = Statistics(categories)
    segments = [{"id": i, "category_id": i} for i in (1, 2, 3)]
    statistics.add(ImageFindings(areas={0: 100, 1: 10, 2: 90, 3: 800}, segments=segments))
    figure = data_bars(statistics)
    shares, instances = figure.axes
    assert [label.get_text() for label in shares.get_yticklabels()] == ["person", "car", "sky"]
    assert [text.get_text() for text in shares.texts] == [" 1", " 9", " 80"]
    assert [text.get_text() for text in instances.texts] == [" 1"]
    save_png(figure, tmp_path / "plot.png")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "plot.png").convert("L")))) > 10


def test_a_best_result_that_is_not_the_last_is_named_with_its_iteration(folder):
    assert "The best PQ was" not in _Links(write_report_page(folder)).text
    add_result(folder, 500, {"panoptic_seg/PQ": 40})
    assert "The best PQ was 52.5 at iteration 400." in _Links(write_report_page(folder)).text


def test_a_class_may_be_called_as_a_column_of_the_confusion_matrix_is(folder, monkeypatch):
    matrix = folder / "inference" / "my_val" / "confusion_matrix.csv"
    matrix.write_text("ground truth,sky,void,void\nsky,5,1,2\nvoid,3,7,4\nvoid,0,8,9\n")
    drawn = []
    monkeypatch.setattr(plots, "confusion_matrix", lambda *matrix: drawn.append(matrix))
    write_report_page(folder)
    ((names, counts),) = drawn
    assert names == ["sky", "void", "void"]
    assert counts.tolist() == [[5, 1, 2], [3, 7, 4], [0, 8, 9]]


def test_without_a_confusion_matrix_the_page_has_the_other_plots(folder):
    with_it = write_report_page(folder).read_text().count("<svg")
    (folder / "inference/my_val/confusion_matrix.csv").unlink()
    assert write_report_page(folder).read_text().count("<svg") == with_it - 1


def test_what_a_folder_lacks_is_left_out(tmp_path):
    page = _Links(write_report_page(tmp_path))
    assert "Curves" not in page.text and "Configuration" not in page.text


@pytest.mark.parametrize("name", ["pointrend_lovasz_R_101_FPN", "deeplab_v3_plus_lovasz_R_103"])
def test_the_configuration_of_a_network_of_detectron2s_projects_is_told(tmp_path, name):
    configs = Path(__file__).parents[2] / "configs" / "Cityscapes-SemanticSegmentation"
    cfg = load_config(configs / f"{name}.yaml", ["SOLVER.MAX_ITER", 12345])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    page = write_report_page(tmp_path).read_text()
    changes = page[page.index("what differs from the defaults") : page.index("all of it")]
    assert "SOLVER.MAX_ITER: 12345" in changes
    assert "MODEL.SEM_SEG_HEAD.NAME" in changes
    assert "MODEL.RETINANET" not in changes


def test_two_test_sets_have_a_part_each(folder):
    (folder / "inference" / "my_val").rename(folder / "inference" / "a_val")
    (folder / "inference" / "b_val").mkdir()
    for name in ("panoptic_quality.json", "confusion_matrix.csv"):
        content = (folder / "inference" / "a_val" / name).read_text()
        (folder / "inference" / "b_val" / name).write_text(content)
    text = _Links(write_report_page(folder)).text
    assert "the worst first on a_val" in text and "the worst first on b_val" in text
    draw_plots(folder)
    assert (folder / "plots" / "b_val_confusion_matrix.png").is_file()


def test_a_request_would_be_noticed(tmp_path, screenshot):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://pictures.invalid/a.png">')
    assert screenshot(page, tmp_path / "a.png", 500) == {"http://pictures.invalid/a.png"}


DARK = "--blink-settings=preferredColorScheme=0"


@pytest.mark.parametrize(
    ("name", "width", "flags"),
    [("light", 1200, []), ("dark", 1200, [DARK]), ("phone", 500, [])],
)
def test_a_browser_shows_it_and_requests_nothing(folder, screenshot, tmp_path, name, width, flags):
    page = write_report_page(folder)
    picture = tmp_path / f"{name}.png"
    assert screenshot(page, picture, width, *flags) == set()
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
    assert pixels.shape[1] == width
    paper = np.median(pixels[:400])
    assert paper < 60 if name == "dark" else paper > 200
    assert pixels[:400].std() > 5 and pixels[1200:2000].std() > 5
