"""The command line as a process of its own, for the tests of the commands that read."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# What the terminal of whoever runs the tests says about width and colour is left out.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}


@cache
def server() -> subprocess.Popen[str]:
    """The process that every command is a fork of; it ends with this one, whose pipe it reads. It stands in
    an empty folder: where the tests are started there may be a project, whose rules commands know."""
    folder = tempfile.mkdtemp(prefix="archer-empty-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    started = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


@cache
def counted() -> None:
    """The contained count of what a rule costs, which takes seconds, once for all commands that show it."""
    running = server()
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write("count\n")
    running.stdin.flush()
    assert running.stdout.readline() == "0\n"


def archer(*arguments: object, columns: int = 120) -> subprocess.CompletedProcess[str]:
    """Run `archer` for a page of so many columns."""
    if arguments[0] in ("table", "compare", "report"):
        counted()
    running = server()
    assert running.stdin is not None
    assert running.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "stdout"), Path(folder, "stderr")
        asked = {"arguments": [*map(str, arguments)], "columns": columns}
        running.stdin.write(json.dumps({**asked, "stdout": str(out), "stderr": str(errors)}) + "\n")
        running.stdin.flush()
        status = int(running.stdout.readline())
        texts = out.read_text(encoding="utf-8"), errors.read_text(encoding="utf-8")
    return subprocess.CompletedProcess(["archer", *asked["arguments"]], status, *texts)


def data(*arguments: object) -> str:
    """What a command prints for a machine, and nothing else."""
    ended = archer(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def output(*arguments: object, columns: int = 120) -> str:
    """What a command that must succeed prints for a person; no line of it is wider than the page."""
    text = archer(*arguments, columns=columns)
    assert (text.returncode, text.stderr) == (0, "")
    assert [line for line in text.stdout.splitlines() if len(line.rstrip()) > columns] == []
    return text.stdout


def refusal(*arguments: object) -> str:
    """The one message of a command that must refuse its input."""
    ended = archer(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    return ended.stderr
