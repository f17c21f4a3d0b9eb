"""The ledger under real processes: many at once, killed, out of space, without rights."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from archer.ledger import LEDGER_NAME, Ledger
from archer.ledger.locking import LOCK_NAME, project_lock
from archer.ledger.problems import LockError
from archer.ledger.records import RunRecord

WORKERS = Path(__file__).parent / "workers.py"


def command(work: str, path: Path, number: int = 0) -> list[str]:
    return [sys.executable, str(WORKERS), work, str(path), str(number)]


def said(work: str, path: Path, number: int = 0) -> list[str]:
    """What the process said, line by line, once it ended by itself."""
    ended = subprocess.run(command(work, path, number), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def kept(lines: list[str]) -> list[str]:
    return [key for line in lines if line.startswith("kept ") for key in line.split()[1:]]


def check_sound(path: Path, acknowledged: list[str]) -> list[str]:
    """Every acknowledged run is there, with its score; the file is whole. Returns all keys."""
    with Ledger.open(path) as ledger:
        scores = {run.key: run.mad for run in ledger.runs()}
        assert len(ledger.runs(keys=acknowledged)) == len(acknowledged)
    assert all(score == int(key.rsplit("-", 1)[1]) % 1000 / 1000 for key, score in scores.items())
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return list(scores)


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_NAME
    lines = said("killed", path, 40)
    assert lines.count("round") == 40
    acknowledged = kept(lines)
    assert len(acknowledged) > 40
    keys = check_sound(path, acknowledged)
    assert len(keys) - len(acknowledged) <= 40 * 2 * 3  # at most one batch of three per killed writer


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"{number}.sqlite"
        lines = said("raced", path, 4)
        assert lines.count("ended 0") == 4
        assert sum(int(line.split()[1]) for line in lines if line.startswith("new")) == 20
        assert len(check_sound(path, [f"key-{key}" for key in range(20)])) == 20


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_NAME
    lines = said("starved", path, 400_000)
    assert "what was recorded before is safe: free some space" in lines[-2]
    assert lines[-1] == "again True"
    acknowledged = kept(lines)
    assert len(acknowledged) > 10
    assert sorted(check_sound(path, acknowledged)) == sorted([*acknowledged, "again-1"])


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one, of 1 MiB, where this process may mount it."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    mounted = f'mount -t tmpfs -o size=1m none "{disk}" && echo mounted'
    work = f'"$@" && cp -r "{disk}" "{copy}"'
    shell = ["unshare", "--mount", "sh", "-c", f"{mounted} && {work}", "sh"]
    ended = subprocess.run(
        [*shell, *command("full", disk / LEDGER_NAME)], capture_output=True, text=True, check=False
    )
    if not ended.stdout.startswith("mounted"):
        pytest.skip(f"no small disk can be mounted here: {ended.stderr.strip()}")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert "the disk is full; what was recorded before is safe: free some space" in lines[-1]
    assert len(kept(lines)) > 10
    assert sorted(check_sound(copy / LEDGER_NAME, kept(lines))) == sorted(kept(lines))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may read and enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="archer-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_without_rights(open_folder: Path, run: RunRecord) -> None:
    path = open_folder / LEDGER_NAME
    with Ledger.open(path) as ledger:
        ledger.add_run(run)
    path.chmod(0o444)
    open_folder.chmod(0o555)
    assert said("unprivileged", path, 1) == ["runs 1"]
    (refusal,) = said("unprivileged", path, 0)
    assert refusal.startswith("refused the ledger ")
    assert "check the rights of the file and of its folder" in refusal
    open_folder.chmod(0o755)
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.runs() == (run,)


def test_a_new_ledger_in_a_folder_without_rights(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    (refusal,) = said("unprivileged", open_folder / LEDGER_NAME, 0)
    assert "check the rights of the file and of its folder" in refusal
    (refusal,) = said("unprivileged", open_folder / "project" / LEDGER_NAME, 0)
    assert "cannot be made: Permission denied" in refusal


# The lock of a project folder


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds tmp_path."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command("locked", tmp_path / "order"), stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout
        assert [process.stdout.readline() for _ in range(2)] == ["starting\n", "held\n"]
        yield process
        process.kill()


def test_the_lock_names_its_holder(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(LockError, match=f"is in use by process {holder.pid}: wait until it ends"),
        project_lock(tmp_path),
    ):
        pass
    with project_lock(tmp_path / "other"):
        pass


def test_the_lock_ends_with_a_killed_holder(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with project_lock(tmp_path) as path:
        assert path.read_text() == f"{os.getpid()}\n"


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), project_lock(tmp_path):
        raise RuntimeError("inside")
    with project_lock(tmp_path):
        again = project_lock(tmp_path)
        with pytest.raises(LockError, match=rf"in use by this process \({os.getpid()}\) already"), again:
            pass
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_waiting_for_the_lock(tmp_path: Path) -> None:
    order, pipe = tmp_path / "order", subprocess.PIPE
    with project_lock(tmp_path):
        waiter = subprocess.Popen(command("locked", order, 1), stdin=pipe, stdout=pipe, text=True)
        assert waiter.stdout
        assert waiter.stdout.readline() == "starting\n"
        order.write_text("test\n")
    assert waiter.stdout.readline() == "held\n"
    waiter.communicate()
    assert waiter.returncode == 0
    assert order.read_text() == "test\nworker\n"


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(LockError, match="cannot be used: Not a directory"),
        project_lock(tmp_path / "file" / "project"),
    ):
        pass
