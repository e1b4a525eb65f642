"""Mutation testing of the losses and of merging: changes of the code that no test notices.

    python dev/mutation.py
    python dev/mutation.py "panoptic_lovasz.losses.fused.*"

mutmut changes one thing at a time in a copy of the package and runs the tests that reach it. The
copy and the results stay in a folder: there a second run tries only what changed in between, and
`mutmut show NAME` prints a change. The compiled kernels cannot be changed that way; tests compare
them with the PyTorch code.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTMUT = Path(sys.executable).with_name("mutmut")
LOSSES = ["lovasz", "sorting", "counters", "fused", "passes", "kernels/torch_impl", "labels"]
LOSSES += ["regions"]
MERGING = ["merge", "rules", "kernels/merge_torch", "postprocess", "paste", "labels"]
MERGING += ["lazy_logits", "confidence"]
MODULES = [f"losses/{name}.py" for name in LOSSES]
MODULES += [f"merging/{name}.py" for name in MERGING]
# Without those that start processes or compilers: each mutant takes a run of the tests.
TESTS = ["test_lovasz.py", "test_counters.py", "test_fused.py", "test_loss_labels.py"]
TESTS += ["test_regions.py"]
TESTS = [f"losses/{name}" for name in TESTS] + ["modeling/test_losses.py", "merging"]
# Decorators that stay: mutmut's copies lack the types that the first reads; it knows the second.
LEFT = ("torch.library.custom_op(", "classmethod")
KILLED = ("killed", "timeout", "segfault", "suspicious")  # the last: crashed in another way
CONFIG = r"""[mutmut]
source_paths=src
only_mutate=
    {modules}
# Numba is loaded once, and no time goes into collecting garbage at the end of each run.
pytest_add_cli_args=
    -pnumba
    -pno:unraisableexception
    -pno:threadexception
pytest_add_cli_args_test_selection=
    {tests}
    -k=not triton_kernel and not compiled_around and not compiled_model
    -m=not slow
# The words of an error message may change.
do_not_mutate_patterns=^ +raise \w+Error\(
# Caches of functions are empty for each mutant.
process_isolation=forkserver
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mutants", nargs="*", help="patterns of those to try, again if need be")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "mutation")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried at the same time")
    args = parser.parse_args()
    prepare(args.folder)
    # With CI set, Hypothesis draws the same examples in every run.
    environment = {**os.environ, "CI": "true", "OMP_NUM_THREADS": "1"}
    command = [MUTMUT, "run", "--max-children", str(args.jobs), *args.mutants]
    subprocess.run(command, cwd=args.folder, env=environment, check=True)
    report(args.folder)


def prepare(folder: Path) -> None:
    """Lay out package, tests and configuration as mutmut wants them: the package below src/."""
    ignore = shutil.ignore_patterns("__pycache__")
    package = folder / "src" / "panoptic_lovasz"
    for source, copy in (("projects/panoptic_lovasz", package), ("tests", folder / "tests")):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ROOT / source, copy, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in MODULES:
        path = package / name
        path.write_text(without_decorators(path.read_text()))
    modules = [f"src/panoptic_lovasz/{name}" for name in MODULES]
    tests = [f"tests/{name}" for name in TESTS]
    config = CONFIG.format(modules="\n    ".join(modules), tests="\n    ".join(tests))
    (folder / "setup.cfg").write_text(config)


def without_decorators(source: str) -> str:
    """The same with ``f = decorator(f)`` below the function: mutmut skips decorated functions."""
    lines = source.splitlines()
    module = ast.parse(source)
    scopes = [module, *(node for node in module.body if isinstance(node, ast.ClassDef))]
    functions = [f for scope in scopes for f in scope.body if isinstance(f, ast.FunctionDef)]
    for function in sorted(functions, key=lambda f: f.lineno, reverse=True):
        decorators = function.decorator_list
        if not decorators or ast.unparse(decorators[0]).startswith(LEFT):
            continue
        decorated = function.name
        for decorator in reversed(decorators):
            decorated = f"{ast.unparse(decorator)}({decorated})"
        indent = " " * function.col_offset
        lines.insert(function.end_lineno, f"{indent}{function.name} = {decorated}")
        del lines[decorators[0].lineno - 1 : function.lineno - 1]
    return "\n".join(lines) + "\n"


def report(folder: Path) -> None:
    """Print a table of the mutants by module, and the names of those that survived."""
    command = [MUTMUT, "results", "--all", "true"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    outcomes: dict[str, Counter] = defaultdict(Counter)
    survivors = []
    for line in done.stdout.splitlines():
        mutant, _, outcome = line.strip().partition(": ")
        outcomes[mutant.rpartition(".")[0]][outcome] += 1
        if outcome not in (*KILLED, "not checked"):
            survivors.append(f"{mutant}: {outcome}")
    print("\n".join(survivors))
    print(f"\n{'module':<48}{'mutants':>9}{'killed':>9}{'survived':>9}{'not tried':>10}")
    for module, counts in outcomes.items():
        killed = sum(counts[how] for how in KILLED)
        untried = counts["not checked"]
        survived = counts.total() - killed - untried
        print(f"{module:<48}{counts.total():>9}{killed:>9}{survived:>9}{untried:>10}")


if __name__ == "__main__":
    main()
