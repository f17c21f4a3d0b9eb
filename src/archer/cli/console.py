"""Where the commands write: results to standard output, everything else to standard error.

Rich leaves colour out where the stream is no terminal or NO_COLOR is set, and animation where it is no
terminal. A stream that is no terminal has no width of its own; there a wide page is assumed, so that a piped
table loses no column.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160
"""Columns assumed for a stream that is no terminal, unless the variable COLUMNS says otherwise."""

LEAST_WIDTH = 80
"""What a table needs to show each figure whole. A narrower terminal breaks the lines; no digit is cut off."""


def results() -> Console:
    """The console for what was asked for: tables, paths, verdicts. Standard output."""
    console = _console(sys.stdout)
    console.width = max(console.width, LEAST_WIDTH)
    return console


def progress() -> Console:
    """The console for progress, notes and errors. Standard error, so that a pipe carries results only."""
    return _console(sys.stderr)


def _console(stream: IO[str]) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    return Console(file=stream, width=width, highlight=False)


def print_json(value: Any) -> None:
    """Write `value` to standard output as indented JSON, and nothing else.

    Raises ValueError for NaN and infinity, which JSON does not have: a missing number is None.
    """
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    """Write one problem to standard error: a red 'error:' and the message, as it is."""
    from rich.text import Text

    progress().print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def print_note(message: str) -> None:
    """Write one line to standard error that is no error."""
    from rich.text import Text

    progress().print(Text(message), soft_wrap=True)
