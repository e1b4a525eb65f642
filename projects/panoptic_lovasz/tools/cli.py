"""What all command lines share: one rule for messages and exit codes, and a start that is quick.

An error is one line on stderr. The exit code is 0 if all is done, 1 if something failed or was
skipped, 2 if the arguments are wrong, and 130 after Ctrl-C, as in any shell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ..errors import ConfigError, DatasetError, NonFiniteLossError
from ..process import prepare_process

__all__ = ["EXIT_CODES", "positive", "run"]

EXIT_CODES = "Exit code: 0 done, 1 something failed or was skipped, 2 wrong arguments."


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the arguments, do the work with them, and return the exit code.

    Args:
        parser: knows the arguments.
        work: gets them; returns the exit code, or None for 0. What takes long to import it imports
            itself, so that ``-h`` and wrong arguments are answered at once. For arguments that are
            wrong together it raises ``argparse.ArgumentError(None, message)``.
        argv: the arguments; by default those of the process.

    Raises:
        SystemExit: 0 after ``-h``, 2 for wrong arguments.
    """
    parser.epilog = f"{parser.epilog}\n{EXIT_CODES}" if parser.epilog else EXIT_CODES
    args = parser.parse_args(argv)
    prepare_process()
    try:
        return work(args) or 0
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except (ConfigError, DatasetError, NonFiniteLossError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def positive(text: str) -> int:
    """The type of an argument that is an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected at least 1")
    return value
