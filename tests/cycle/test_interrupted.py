"""The real command, ended at any moment: nothing is lost, nothing trained twice, no process left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.cycle.tiny import SETTINGS, check_integrity, finish, start, working

from archer.ledger import LEDGER_NAME, Ledger
from archer.ledger.records import RunRecord

RUN = ("run", "--preset", "tiny", "--project", "project")
BENCH = ("bench", "softmax", "--preset", "tiny", "--project", "project")
PATIENCE_SECONDS = 60.0

pytestmark = pytest.mark.slow


def runs_in(folder: Path) -> dict[str, RunRecord]:
    if not (folder / "project" / LEDGER_NAME).exists():
        return {}
    with Ledger.in_folder(folder / "project", read_only=True) as ledger:
        return {record.key: record for record in ledger.runs()}


def begin_until(word: str, folder: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """Starts the command and waits until it says that this phase begins; also gives what it said."""
    process = start(*RUN, folder=folder)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(word):
            break
    return process, said


def wait_until_nothing_works(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := working(folder):
        assert time.monotonic() < deadline, f"still at work: {left}"
        time.sleep(0.02)


def known_at_start(said: list[str]) -> int:
    """The number in "7 of 18 runs are in the ledger already", 0 where it is not said."""
    line = next((line for line in said if "are in the ledger already" in line), "0")
    return int(line.split()[0])


def test_killed_at_random_moments_it_continues(tmp_path: Path) -> None:
    """kill -9 in each phase, and Ctrl-C once; then the same command finishes the one cycle."""
    chance, before = random.Random(os.urandom(8)), runs_in(tmp_path)
    for word, longest in (("Propose", 1.5), ("Verify", 5.0), ("Train", 6.0)):
        process, _ = begin_until(word, tmp_path)
        time.sleep(chance.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until_nothing_works(tmp_path)
        check_integrity(tmp_path / "project")
        now = runs_in(tmp_path)
        assert {key: now[key] for key in before} == before, "a finished run was lost or changed"
        before = now
    if list_states(tmp_path) != ["finished"]:  # else the last kill came too late to interrupt anything
        interrupt_by_keyboard(tmp_path)
        before = runs_in(tmp_path)
        ended = finish(*RUN, folder=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert "continuing cycle 0001" in ended.stderr
        assert known_at_start(ended.stderr.splitlines()) == len(before)
    after = runs_in(tmp_path)
    assert {key: after[key] for key in before} == before
    assert len(after) == 3 * len(SETTINGS)
    assert {record.status for record in after.values()} == {"finished"}
    assert list_states(tmp_path) == ["finished"]
    check_integrity(tmp_path / "project")


def interrupt_by_keyboard(folder: Path) -> None:
    process, _ = begin_until("Train", folder)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the same command continues" in errors
    assert "Traceback" not in errors
    wait_until_nothing_works(folder)


def list_states(folder: Path) -> list[str]:
    with Ledger.in_folder(folder / "project", read_only=True) as ledger:
        return [cycle.state for cycle in ledger.cycles()]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """Files that cannot grow: first none to speak of, then enough for a part of the work."""
    for limit in (20_000, 250_000):
        ended = finish("--limit-file-bytes", limit, *BENCH, folder=tmp_path)
        assert ended.returncode == 2, ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stderr.count("error:") == 1
        assert "free some space" in ended.stderr
        wait_until_nothing_works(tmp_path)
        check_integrity(tmp_path / "project")
    before = runs_in(tmp_path)
    assert 0 < len(before) < 2 * len(SETTINGS)
    ended = finish(*BENCH, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert known_at_start(ended.stderr.splitlines()) == len(before)
    after = runs_in(tmp_path)
    assert {key: after[key] for key in before} == before
    assert len(after) == 2 * len(SETTINGS)
