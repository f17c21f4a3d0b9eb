"""The command line in a process of its own, for the tests of the commands that read."""

from __future__ import annotations

import os
import subprocess
import sys

# What the terminal of whoever runs the tests says about width and colour is left out.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}


def archer(*arguments: object, columns: int = 120) -> subprocess.CompletedProcess[str]:
    """Run `python -m archer` for a page of so many columns."""
    asked = [sys.executable, "-m", "archer", *map(str, arguments)]
    environment = {**ENVIRONMENT, "COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}
    return subprocess.run(asked, capture_output=True, text=True, env=environment, check=False, timeout=120)


def data(*arguments: object) -> str:
    """What a command prints for a machine, and nothing else."""
    ended = archer(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def output(*arguments: object, columns: int = 120) -> str:
    """What a command that must succeed prints for a person; no line of it is wider than the page."""
    ended = archer(*arguments, columns=columns)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line for line in ended.stdout.splitlines() if len(line.rstrip()) > columns] == []
    return ended.stdout


def refusal(*arguments: object) -> str:
    """The one message of a command that must refuse its input."""
    ended = archer(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    return ended.stderr
