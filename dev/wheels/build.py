"""Build a wheel from a package that today's pip cannot install as it is on the index.

    python dev/wheels/build.py dev/wheels/detectron2.yaml --build-dir .build

A recipe is data: where the source comes from and its sha256, which folders make the package, its
metadata, and the rewriting rules, each with its reason and the number of places that it changes.
A rule that changes another number of places is an error, so that none is left behind unnoticed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml


class BuildError(Exception):
    """The wheel cannot be built; the message says why in one line."""


# ---------------------------------------------------------------------------- source


def pip_places() -> list[list[str]]:
    """Where pip looks for packages, as options of `unearth`: one list for each place to try."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, list[str]] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        section_and_name, _, value = line.partition("=")
        name = section_and_name.rpartition(".")[2]
        settings[name] = ast.literal_eval(value).split()  # the environment comes last and wins
    index = [["--index-url", url] for url in settings.get("index-url", [])] or [[]]
    extra = [["--index-url", url] for url in settings.get("extra-index-url", [])]
    links = [["--find-link", place] for place in settings.get("find-links", [])]
    trust = [x for host in settings.get("trusted-host", []) for x in ("--trusted-host", host)]
    return [[*place, *trust] for place in index + extra + links]


def fetch(source: dict, folder: Path) -> Path:
    """The source archive that the recipe names, from `folder` or from the package index."""
    folder = folder.resolve()
    archive = folder / source["file"]
    if archive.is_file() and _sha256(archive) == source["sha256"]:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    kind = "--no-binary" if archive.name.endswith(".tar.gz") else "--only-binary"
    said = ""
    with tempfile.TemporaryDirectory(dir=folder) as download:
        for place in pip_places():
            command = [sys.executable, "-m", "unearth", source["requirement"], *place, kind]
            run = subprocess.run([*command, "--download", download], capture_output=True, text=True)
            if run.returncode:
                said = said or run.stderr.strip().rpartition("\n")[2]
                continue
            # A file of an index on disk is not copied but named where it lies.
            found = Path(shutil.copy(json.loads(run.stdout)["local_path"], f"{download}.part"))
            sha256 = _sha256(found)
            if sha256 != source["sha256"]:
                found.unlink()
                raise BuildError(
                    f"{archive.name} has sha256 {sha256}, expected {source['sha256']}: "
                    "the index serves another file than the one this recipe was made for"
                )
            return found.replace(archive)
    raise BuildError(
        f"no package index has {source['requirement']} ({said}); "
        f"put {archive.name} into {folder} by hand to go on without one"
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A temporary folder with the archive's content."""
    sdist = archive.name.endswith(".tar.gz")
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        shutil.unpack_archive(archive, folder, "gztar" if sdist else "zip")
        yield next(Path(folder).iterdir()) if sdist else Path(folder)


# ---------------------------------------------------------------------------- rewriting


def apply_rule(rule: dict, root: Path) -> int:
    """Apply one rewriting rule to the files under `root`; the number of places changed.

    A rule has `files` (a glob or a list of them), `pattern` (a regular expression, ^ and $ match
    at lines), `replacement`, `count` (the places it changes) and `why`.
    """
    globs = [rule["files"]] if isinstance(rule["files"], str) else rule["files"]
    changed = 0
    for glob in globs:
        files = sorted(p for p in root.glob(glob) if p.is_file())
        if not files:
            raise BuildError(f"rule {rule['pattern']!r}: there is no file {glob}")
        for file in files:
            text = file.read_text(encoding="utf-8")
            text, n = re.subn(rule["pattern"], rule["replacement"], text, flags=re.MULTILINE)
            if n:
                file.write_text(text, encoding="utf-8")
            changed += n
    if changed != rule["count"]:
        raise BuildError(
            f"rule {rule['pattern']!r} on {', '.join(globs)} changed {changed} places, "
            f"expected {rule['count']}: the source is not the one that the rule was made for"
        )
    return changed


# ---------------------------------------------------------------------------- wheel


def metadata(recipe: dict) -> str:
    """The wheel's METADATA file."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {recipe['name']}",
        f"Version: {recipe['version']}",
        f"Summary: {recipe['summary']}",
        f"License: {recipe['license']}",
        f"Requires-Python: {recipe['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in recipe["requires"]),
    ]
    return "\n".join(lines) + "\n"


def lay_out(recipe: dict, source: Path, root: Path) -> None:
    """Lay the wheel's content out in `root`: packages, added files, rewritten code, metadata."""
    for origin, package in recipe["packages"].items():
        shutil.copytree(source / origin, root / package, dirs_exist_ok=True)
    for name, text in recipe.get("added", {}).items():
        (root / name).write_text(text, encoding="utf-8")
    for rule in recipe.get("rules", []):
        apply_rule(rule, root)
    dist_info = root / f"{recipe['name'].replace('-', '_')}-{recipe['version']}.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(metadata(recipe), encoding="utf-8")
    (dist_info / "WHEEL").write_text(
        "Wheel-Version: 1.0\nGenerator: build.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    for name in recipe.get("license-files", []):
        shutil.copy(source / name, dist_info)


def build(recipe_file: Path, build_dir: Path) -> Path:
    """Build the recipe's wheel into `build_dir`; its path."""
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
    archive = fetch(recipe["source"], build_dir)
    with unpacked(archive) as source, tempfile.TemporaryDirectory(dir=build_dir) as folder:
        root = Path(folder, "wheel")
        root.mkdir()
        lay_out(recipe, source, root)
        subprocess.run(
            [sys.executable, "-m", "wheel", "pack", root, "--dest-dir", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.replace(build_dir / wheel.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--build-dir", type=Path, default=Path(".build"))
    args = parser.parse_args()
    try:
        for recipe in args.recipes:
            print(build(recipe, args.build_dir))
    except BuildError as error:
        sys.exit(f"{recipe}: {error}")


if __name__ == "__main__":
    main()
