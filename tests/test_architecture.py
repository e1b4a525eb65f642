"""Who may import whom, as docs/architecture.md says it, read from the syntax trees."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import panoptic_lovasz

ROOT = Path(panoptic_lovasz.__file__).parent
GROUND = {"visualization", *(file.stem for file in ROOT.glob("*.py"))}  # single modules, drawing
PAGE = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)/` \|.*\|(.*)\|$", re.M)
# A room imports the ground, the rooms that the page's table names, and what those may import.
MAY_IMPORT = {room: re.findall(r"`(\w+)`", others) for room, others in ROW.findall(PAGE)}
# Public names that forward to where they live.
FORWARDED = {("losses/__init__.py", "modeling"), ("model_zoo/__main__.py", "tools")}
DETECTRON2_SIDE = {
    "augmentation",
    "build",
    "class_counts",
    "evaluation_sets",
    "mapper",
    "masks",
    "register",
    "samplers",
}


def _module(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _resolve(node, package):
    """Names, as tuples below the project's package, that an import statement or a call of
    ``lazy_names`` refers to; names of other packages begin with None."""
    if isinstance(node, ast.Import):
        return [_below(alias.name.split(".")) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = (node.module or "").split(".") if node.module else []
        if not node.level:
            base = _below(module)
        else:
            base = package[: len(package) - node.level + 1] + tuple(module)
        return [(*base, alias.name) for alias in node.names]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy_names":
        modules = ast.literal_eval(node.args[1])
        levels = {name: len(name) - len(name.lstrip(".")) for name in modules}
        return [
            (*package[: len(package) - levels[m] + 1], *m.lstrip(".").split("."), name)
            for m, names in modules.items()
            for name in names
        ]
    return []


def _below(parts):
    return tuple(parts[1:]) if parts[0] == "panoptic_lovasz" else (None, *parts)


def _imports(file, *, deferred=True):
    """All imports of a file; without the deferred ones those that run when it is imported."""
    module = _module(file)
    package = module if file.name == "__init__.py" else module[:-1]
    nodes = ast.walk(ast.parse(file.read_text())) if deferred else _run_at_import(file)
    return {name for node in nodes for name in _resolve(node, package)}


def _run_at_import(file):
    todo = list(ast.parse(file.read_text()).body)
    while todo:
        node = todo.pop()
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not is_typing and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += ast.iter_child_nodes(node)


FILES = sorted(ROOT.rglob("*.py"))


def _allowed(room):
    named = MAY_IMPORT[room]
    return {room, *named}.union(*map(_allowed, named))


def test_every_room_imports_only_what_lies_below_it():
    rooms = GROUND | set(MAY_IMPORT)
    wrong = []
    for file in FILES:
        room, name = _module(file)[:1], file.relative_to(ROOT).as_posix()
        if not room:  # the package's own __init__ offers names of all rooms
            continue
        assert room[0] in rooms, f"{name}: say in docs/architecture.md what it may import"
        allowed = GROUND | (set() if room[0] in GROUND else _allowed(room[0]))
        for imported in _imports(file):
            target = imported[0] if imported else None
            if target in rooms - allowed and (name, target) not in FORWARDED:
                wrong.append(f"{name} imports {'.'.join(imported)}")
    assert not wrong, "\n".join(sorted(wrong))


def test_the_readme_names_every_room_and_document():
    readme = (ROOT.parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## What is where") : readme.index("## Cite")]
    rooms = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}/`" not in section} == set()
    documents = {file.name for file in (ROOT.parents[1] / "docs").glob("*.md")}
    assert {name for name in documents if f"(docs/{name})" not in section} == set()


def test_no_modules_import_each_other_in_a_circle():
    known = {_module(file) for file in FILES}
    graph = {}
    for file in FILES:
        imported = {name for name in _imports(file, deferred=False) if name[:1] != (None,)}
        targets = {name if name in known else name[:-1] for name in imported}
        graph[_module(file)] = targets & known - {(), _module(file)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_the_losses_and_drawing_import_nothing_of_detectron2():
    for file in [*ROOT.glob("losses/**/*.py"), *ROOT.glob("visualization/*.py")]:
        others = {name[1] for name in _imports(file) if name[:1] == (None,)}
        assert not others & {"detectron2", "fvcore", "iopath", "pycocotools"}, file


def test_a_lazy_name_is_never_that_of_a_module_of_its_package():
    for file in ROOT.rglob("__init__.py"):
        package = _module(file)
        nodes = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        names = {name[-1] for node in nodes for name in _resolve(node, package)}
        assert not names & {p.stem for p in file.parent.iterdir()}, file


@pytest.mark.parametrize("package", ["", ".data", ".data.converters", ".evaluation", ".model_zoo"])
def test_every_name_of_a_lazy_package_can_be_imported_and_listed(package):
    module = __import__(f"panoptic_lovasz{package}", fromlist=["*"])
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = module.no_such_name


def _fresh_process(code):
    """Top-level packages that a fresh process has imported after the code."""
    code += "\nimport sys; print('imported:', *sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("imported:")[2].split())


def test_format_checks_converters_and_panoptic_quality_import_neither_torch_nor_detectron2():
    modules = [f for f in ROOT.glob("data/**/*.py") if f.stem not in DETECTRON2_SIDE]
    modules += [ROOT / f"evaluation/{n}.py" for n in ("panoptic_quality", "report", "submission")]
    names = {".".join(("panoptic_lovasz", *_module(file))) for file in modules}
    imported = _fresh_process(f"import {', '.join(sorted(names))}")
    assert "numpy" in imported
    assert not imported & {"torch", "torchvision", "detectron2", "fvcore", "numba", "matplotlib"}
