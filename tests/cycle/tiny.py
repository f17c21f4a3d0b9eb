"""A preset that trains in seconds, and what the tests of cycles share."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from archer.cycle.plan import with_width
from archer.ledger import LEDGER_NAME
from archer.mad import PRESETS, Preset

ROOT = Path(__file__).parents[2]
SETTINGS = tuple(
    replace(setting, length=32, train_examples=64, validation_examples=32, test_examples=32)
    for setting in PRESETS["smoke"].settings
)


def tiny(**changes: object) -> Preset:
    """Four chunks a sequence, so that every slot can show; two fleets for each rule."""
    numbers: dict[str, object] = {
        "settings": SETTINGS, "width": 16, "mixers": 1, "heads": 2, "chunk_size": 8, "batch_size": 16,
        "epochs": 1, "evaluate_every": 1, "seeds": 1,
    }  # fmt: skip
    return with_width(PRESETS["smoke"], **{**numbers, **changes})


TINY = replace(tiny(), name="tiny")
TINY_2 = replace(tiny(epochs=2), name="tiny-2")

RULE_IN_SIX_LINES = '''"""A state that forgets a tenth."""

parent = "delta_net"

def retain(S):
    return 0.9 * S
'''

LEAKING_RULE = '''"""Reads one token ahead."""

parent = "delta_net"

def similarity(scores):
    return scores.tril(1)
'''

THIEVING_RULE = '''"""Wants a file."""

parent = "delta_net"

def read(o):
    open("/etc/passwd")
    return 1.5 * o
'''


def environment(folder: Path) -> dict[str, str]:
    """One thread, and temporary files where the test can see them."""
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
    }  # fmt: skip


def start(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    """The real command, with the preset tiny, in a process group of its own."""
    command = [sys.executable, str(Path(__file__).with_name("archer_tiny.py")), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(folder),
        cwd=folder, start_new_session=True,
    )  # fmt: skip


def finish(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(*arguments, folder=folder)
    out, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def wait_for(project: Path, table: str) -> None:
    """Until the ledger has a row in that table, or one that fits "table WHERE ..."."""
    path = project / LEDGER_NAME
    for _ in range(2400):
        if path.exists():
            try:
                with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                    if connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
                        return
            except sqlite3.OperationalError:  # not there yet
                pass
        time.sleep(0.05)
    raise AssertionError(f"nothing came into {table}")


def check_integrity(project: Path) -> None:
    """What SQLite itself says of the ledger, where there is one."""
    path = project / LEDGER_NAME
    if path.exists():
        connection = sqlite3.connect(path)
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            connection.close()


def working(folder: Path) -> list[str]:
    """Command lines of processes that work for a project in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it ended while we looked
            continue
        if str(folder) in line and state != "Z":
            found.append(line)
    return found
