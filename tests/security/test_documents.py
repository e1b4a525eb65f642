"""JSON, YAML, names and graphs built to run code, to write elsewhere, or to take forever."""

import functools
import http.server
import json
import os
import threading
import time

import numpy as np
import pytest
import torch
import yaml
from detectron2.utils.events import EventStorage, TensorboardXWriter

from panoptic_lovasz import model_zoo
from panoptic_lovasz.checkpoint import find_checkpoint, read_model_info
from panoptic_lovasz.config import load_found_config
from panoptic_lovasz.data import PanopticClasses
from panoptic_lovasz.errors import CheckpointError, ConfigError, DatasetError
from panoptic_lovasz.inference.exported import load_exported
from panoptic_lovasz.model_zoo.index import fetch
from panoptic_lovasz.model_zoo.model_card import write_model_card
from panoptic_lovasz.reporting.page import table, write_page
from panoptic_lovasz.reporting.plots import class_bars, confusion_matrix, save_png

pytestmark = pytest.mark.attack

# A thousand million strings by nine lines; by mapping merges, which are copied; and endless.
BOMBS = {
    "lists": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
    "merges": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)),
    "itself": "a: &a [*a]\n",
}


@pytest.fixture
def folder(sound, tmp_path):
    """Writes a config.yaml beside weights, and reads it as every tool does."""
    target = tmp_path / "model"
    target.mkdir()
    for file in (sound / "model").iterdir():
        (target / file.name).symlink_to(file)

    def load(text):
        (target / "config.yaml").unlink()
        (target / "config.yaml").write_text(text)
        return load_found_config(find_checkpoint(target).config_file)

    load.folder = target
    return load


@pytest.mark.parametrize("bomb", BOMBS)
def test_aliases_that_multiply_are_refused_before_they_do(folder, bomb):
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"config\.yaml is not YAML .*more than 100000"):
        folder(BOMBS[bomb] + "MODEL: {}\n")
    assert time.process_time() - start < 10  # and not the age of the universe


def test_the_aliases_that_dumping_a_config_makes_are_read(folder, sound):
    text = (sound / "model/config.yaml").read_text()
    assert "*id" in text
    assert folder(text).MODEL.ROI_HEADS.NUM_CLASSES == 4


@pytest.mark.parametrize(
    "tag",
    ["object/apply:os.mkdir [ran]", "object/new:os.mkdir [ran]", "name:os.mkdir", "tuple [1]"],
)
def test_python_objects_in_a_config_are_not_made(folder, monkeypatch, tmp_path, tag):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.yaml is not YAML of plain values"):
        folder(f"MODEL: {{WEIGHTS: !!python/{tag}}}\n")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("base", ["../base.yaml", "/etc/base.yaml", "http://127.0.0.1:9/b.yaml"])
def test_a_config_that_inherits_from_elsewhere_is_refused(folder, tmp_path, base):
    (tmp_path / "base.yaml").write_text("OUTPUT_DIR: /tmp/elsewhere\n")
    with pytest.raises(CheckpointError, match="inherits from another file by _BASE_"):
        folder(f"_BASE_: '{base}'\nMODEL: {{}}\n")


@pytest.mark.parametrize("text", ["[" * 10**5, "MODEL:\n" + " " * 2**21, "{" * 10**4, "\0", "\x80"])
def test_a_config_of_endless_depth_or_length_is_one_error(folder, text):
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        folder(text)


def test_a_model_of_timm_that_lies_elsewhere_is_refused(folder, sound):
    config = yaml.safe_load((sound / "model/config.yaml").read_text())
    config["MODEL"]["BACKBONE"]["NAME"] = "build_timm_fpn_backbone"
    for name in ("hf-hub:someone/model", "local-dir:/tmp/model", "../model"):
        config["MODEL"]["TIMM"]["NAME"] = name
        with pytest.raises(ConfigError, match="timm"):
            folder(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5, "is not JSON"),
        (" " * (2**20 + 1), "is too long: expected at most 1048576 bytes"),
        ('{"thing_classes": [], "thing_classes": []}', "'thing_classes' is there more than once"),
        ("\xff", "is not JSON|is not text"),
    ],
)
def test_classes_of_endless_depth_or_length_or_told_twice_are_one_error(folder, text, message):
    (folder.folder / "classes.json").unlink()
    (folder.folder / "classes.json").write_bytes(text.encode("latin1"))
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(folder.folder)


def test_the_last_checkpoint_is_looked_for_in_its_folder_alone(folder, tmp_path):
    (folder.folder / "model_final.pth").unlink()
    torch.save({"model": {}}, tmp_path / "elsewhere.pth")
    (folder.folder / "last_checkpoint").write_text("../elsewhere.pth")
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        find_checkpoint(folder.folder)


HOSTILE_NAMES = ["<script>alert(1)</script>", "[a](javascript:b)", "![](http://t/x)", "a|b`c*d"]
HOSTILE_NAMES += ["$\\frac{$", "<img src=x onerror=y>", "x" * 256]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b]0;t\x07", "a\u202egnp", "x" * 10_000, "a\0"])
def test_names_that_command_a_terminal_turn_text_or_never_end_are_refused(name):
    category = {"id": 1, "name": name, "isthing": 1}
    with pytest.raises(DatasetError, match=r"categories\[0\]: name .* (control|10000) character"):
        PanopticClasses.from_categories([category])
    sound = PanopticClasses.from_categories([{**category, "name": "می\u200cروم"}])  # ZWNJ
    with pytest.raises(DatasetError, match="the class name"):
        PanopticClasses(**{**vars(sound), "thing_classes": (name,)})


def test_names_of_html_and_markdown_are_text_in_card_and_page(sound, tmp_path):
    files = model_zoo.publish(sound / "model", "model", tmp_path)
    categories = [
        {"id": n, "name": name, "isthing": n % 2} for n, name in enumerate(HOSTILE_NAMES, start=1)
    ]
    metrics = {"panoptic_seg/PQ": 1.0, **{f"panoptic_seg/PQ-{n}": 1.0 for n in HOSTILE_NAMES}}
    info = files.info.__class__(
        **{**vars(files.info), "classes": PanopticClasses.from_categories(categories)}
        | {"metrics": metrics, "license": "<b>[x](y)"}
    )
    write_model_card(tmp_path / "card.md", files._replace(info=info), None)
    card = (tmp_path / "card.md").read_text()
    for start in ("<script", "<img", "<b>"):
        assert start not in card.replace("\\<", "")
    assert "[a](javascript" not in card and "](http://t" not in card.replace("\\]", "")
    assert r"a\|b\`c\*d" in card
    write_page(tmp_path / "page.html", HOSTILE_NAMES[0], [table(["name"], [HOSTILE_NAMES])])
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;alert" in page and "<script>alert" not in page and "<img" not in page


def test_names_of_formulas_and_markup_are_drawn_and_logged(tmp_path):
    rows = [{"name": name, "isthing": n % 2, "PQ": 50.0} for n, name in enumerate(HOSTILE_NAMES)]
    save_png(class_bars("PQ", rows, "PQ"), tmp_path / "bars.png")
    counts = np.eye(len(HOSTILE_NAMES) + 1, dtype=int)
    save_png(confusion_matrix([*HOSTILE_NAMES, "void"], counts), tmp_path / "confusion.png")
    with EventStorage() as storage:
        for name in HOSTILE_NAMES:
            storage.put_scalar(f"panoptic_seg/PQ-{name}", 1.0, smoothing_hint=False)
        writer = TensorboardXWriter(str(tmp_path / "board"))
        writer.write()
        writer.close()
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert any((tmp_path / "board").iterdir())


@pytest.fixture
def index(tmp_path):
    """Writes an index with one entry, changed as given."""

    def write(**fields):
        entry = {"file": "x.safetensors", "sha256": "0", "config": "x.yaml", "config_sha256": "0"}
        entry |= {"metrics": {}, "dataset": "", "license": "", **fields}
        folder = tmp_path / "zoo"
        folder.mkdir(exist_ok=True)
        (folder / "index.json").write_text(json.dumps({"format": 1, "models": {"m": entry}}))
        return folder

    return write


@pytest.mark.parametrize("field", ["file", "config"])
@pytest.mark.parametrize(
    "path",
    [
        "../../x",
        "a/../../x",
        "/etc/passwd",
        "..\\x",
        "\\x",
        "C:/x",
        "file:///etc/passwd",
        "ftp://h/x",
        "https://h/../../x",
        "x?/../y",
        "",
    ],
)
def test_an_index_names_no_file_outside_its_folder(index, field, path):
    with pytest.raises(ConfigError, match=f"'m': '{field}' is .* expected a relative path"):
        model_zoo.list(zoo=index(**{field: path}))


def test_a_pipe_in_a_zoo_does_not_hang(index):
    zoo = index(file="pipe")
    os.mkfifo(zoo / "pipe")
    with pytest.raises(CheckpointError, match="there is no such file"):
        model_zoo.get_checkpoint("m", zoo=zoo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5, "is not JSON"),
        ('{"format": 1, "models": {}, "models": {}}', "'models' is there more than once"),
        (" " * (2**26 + 1), "is too long"),
    ],
)
def test_an_index_of_endless_depth_or_length_or_told_twice_is_one_error(tmp_path, text, message):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        model_zoo.read_index(tmp_path)


def test_an_index_of_ten_thousand_models_is_listed(index):
    zoo = index()
    content = json.loads((zoo / "index.json").read_text())
    content["models"] = {f"m{n}": content["models"]["m"] for n in range(10_000)}
    (zoo / "index.json").write_text(json.dumps(content))
    assert len(model_zoo.list(trained=True, zoo=zoo)) >= 10_000


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that redirects /to-file and /loop, and counts; the cache is a folder of the test."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            places = {"/to-file": "file:///etc/hostname", "/loop": "/loop"}
            place = places.get(self.path.partition(".")[0])
            if place is None:
                return super().do_GET()
            self.send_response(302)
            self.send_header("Location", place)
            self.end_headers()
            return None

        def log_message(self, *args):
            pass

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    (served / "x.safetensors").write_bytes(b"something else")
    handler = functools.partial(Handler, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("place", ["to-file.safetensors", "loop.safetensors"])
def test_a_redirect_to_a_local_file_or_to_itself_is_one_error(server, tmp_path, place):
    with pytest.raises(CheckpointError, match=f"{place} cannot be read"):
        fetch(f"{server}/{place}", "0" * 64)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_download_with_another_hash_is_refused_and_leaves_the_cache(server, tmp_path):
    with pytest.raises(CheckpointError, match="is not what the model zoo's index promises"):
        fetch(f"{server}/x.safetensors", "0" * 64)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_served_index_cannot_have_its_files_written_outside_the_cache(server, tmp_path, index):
    zoo = index(file=f"{server}/../../served/../marked/x.safetensors")
    with pytest.raises(ConfigError, match=r"without '\.\.'"):
        model_zoo.get_checkpoint("m", zoo=zoo)
    assert not list(tmp_path.rglob("marked"))


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "data.bin"])
def test_an_onnx_file_that_reads_others_is_refused(tmp_path, location):
    onnx = pytest.importorskip("onnx", reason="ONNX needs the extra packages of [export]")
    pytest.importorskip("onnxruntime", reason="ONNX needs the extra packages of [export]")
    (tmp_path / "data.bin").write_bytes(bytes(16))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    inner = onnx.helper.make_node("If", [], [], then_branch=graph, else_branch=graph)
    for number, g in enumerate((graph, onnx.helper.make_graph([inner], "outer", [], []))):
        file = tmp_path / f"{number}.onnx"
        file.write_bytes(onnx.helper.make_model(g).SerializeToString())
        with pytest.raises(ConfigError, match="keeps data in other files"):
            load_exported(file)


def test_metadata_of_endless_length_is_one_error(sound, tmp_path):
    from safetensors.torch import save_file

    files = model_zoo.publish(sound / "model", "model", tmp_path)
    metadata = read_model_info(files.safetensors).to_metadata()
    metadata["classes"] = "[" * (2**20 + 1)
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointError, match="field 'classes' has 1048577 characters"):
        find_checkpoint(tmp_path / "x.safetensors")
