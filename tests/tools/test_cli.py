"""Every command line ends with one line and one exit code, and answers before it imports much."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_lovasz.errors import CheckpointError, ConfigError, DatasetError, NonFiniteLossError
from panoptic_lovasz.tools import __file__ as tools
from panoptic_lovasz.tools import check_dataset, cli, compare, predict

TOOLS = sorted(p.stem for p in Path(tools).parent.glob("*.py") if p.stem not in ("__init__", "cli"))


def run(work, *argv):
    parser = argparse.ArgumentParser(prog="tool")
    parser.add_argument("--n", type=cli.positive, default=1)
    return cli.run(parser, work, argv)


def raises(error):
    def work(args):
        raise error

    return work


def test_the_exit_code_is_what_the_work_returns_or_zero():
    assert run(lambda args: None) == 0
    assert run(lambda args: 1 if args.n == 3 else 0, "--n", "3") == 1


@pytest.mark.parametrize(
    "error", [ConfigError, DatasetError, CheckpointError, NonFiniteLossError, OSError]
)
def test_an_error_that_a_user_can_mend_is_one_line_and_exit_code_one(error, capsys):
    assert run(raises(error("the file, the value"))) == 1
    assert capsys.readouterr() == ("", "error: the file, the value\n")


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raises(ZeroDivisionError()))


def test_ctrl_c_is_one_line_and_the_shells_exit_code(capsys):
    assert run(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("work", "argv", "message"),
    [
        (run, ["--no-such"], "unrecognized arguments: --no-such"),
        (run, ["--n", "0"], "argument --n: found 0, expected at least 1"),
        (raises(argparse.ArgumentError(None, "a and b go together")), [], "a and b go together"),
    ],
)
def test_wrong_arguments_are_exit_code_two_with_the_usage(work, argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(work, *argv)
    usage, last = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: tool") and last == f"tool: error: {message}"


@pytest.mark.parametrize(
    ("tool", "argv", "message"),
    [
        (check_dataset, ["a.json", "--panoptic", "b"], "--panoptic needs --images"),
        (compare, ["--losses", "ce,none"], "--losses: 'none' is not one of ce, "),
        (compare, ["--losses", "ce,ce"], "--losses must differ from each other"),
        (compare, ["--seeds", "0"], "argument --seeds: found 0, expected at least 1"),
        (compare, ["--loss", "mine", "KEY"], "--loss mine: found 'KEY', expected KEY=VALUE"),
        (predict, ["--confidence-threshold", "7"], "found 7.0, expected 0 to 1"),
    ],
)
def test_arguments_that_contradict_each_other_are_wrong_arguments(tool, argv, message, capsys):
    needed = {
        compare: ["--config-file", "a", "--output", "b"],
        predict: ["--checkpoint", "a", "--input", "b", "--output", "c"],
    }
    with pytest.raises(SystemExit, match="2"):
        tool.main([*needed.get(tool, []), *argv])
    assert message in capsys.readouterr().err


def test_help_and_wrong_arguments_of_every_tool_import_no_library():
    code = f"""
import contextlib, importlib, io, sys
for name in {[*(f"tools.{tool}" for tool in TOOLS), "model_zoo.__main__"]}:
    main = importlib.import_module("panoptic_lovasz." + name).main
    for argv, expected in (["-h"], 0), (["--no-such"], 2):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                sys.exit(main(argv))
            except SystemExit as end:
                code = end.code
        assert code == expected and "usage: " in out.getvalue(), (name, argv, code)
        assert argv != ["-h"] or "Exit code: 0 done" in out.getvalue(), name
print(*sorted({{m.partition(".")[0] for m in sys.modules}} - sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {"numpy", "cv2", "PIL", "torch", "detectron2", "matplotlib", "numba", "iopath"}
    assert "panoptic_lovasz" in done.stdout.split() and not heavy & set(done.stdout.split())
