"""Processes for the tests to race, starve and kill: `python workers.py WORK FILE [NUMBER]`.

Each announces on standard output what the ledger has acknowledged, one line at a time.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import time
from pathlib import Path

from archer.ledger.locking import project_lock
from archer.ledger.problems import LedgerError
from archer.ledger.records import CurvePoint, RunRecord
from archer.ledger.store import Ledger


def record(key: str) -> RunRecord:
    """A run of some size, its score told by its key."""
    score = int(key.rsplit("-", 1)[1]) % 1000 / 1000
    curve = tuple(CurvePoint(epoch, 1.0, 1.0, 0.5, 1.0, 0.5) for epoch in range(20))
    return RunRecord(
        key, "delta_net", "hash", "Compress", "s", 1e-3, 0.0, 0, "smoke", "finished",
        score, score, score, 1, 1, 1.0, "cpu", "r", "2025", curve=curve,
    )  # fmt: skip


def say(line: str) -> None:
    """One line in one piece, although several processes write to the pipe."""
    os.write(1, f"{line}\n".encode())


def fork(work: object, *arguments: object) -> int:
    """Run `work` in a child that ends with it."""
    process = os.fork()
    if process == 0:
        work(*arguments)  # type: ignore[operator]
        os._exit(0)
    return process


def write_forever(path: Path, name: str, started: int) -> None:
    """Add runs one by one and in threes, acknowledged after each call, until killed."""
    with Ledger.open(path) as ledger:
        number = 0
        while number < 100_000:
            batch = [f"{name}-{number + offset}" for offset in range(1 + number % 3)]
            number += len(batch)
            if not all(ledger.add_runs([record(key) for key in batch])):
                raise AssertionError(f"a new run was not new: {batch}")
            say(" ".join(["kept", *batch]))
            os.write(started, b".")


def killed(path: Path, rounds: int) -> None:
    """Rounds of two writers, killed at a random moment; `round` is said when both are gone.

    Every other round they are killed while they open the file, otherwise while they write.
    """
    moment = random.Random(1)
    for number in range(rounds):
        reading, writing = os.pipe()
        writers = [fork(write_forever, path, f"{number}-{writer}", writing) for writer in range(2)]
        os.close(writing)  # so that reading ends when no writer is left
        if number % 2:
            for _ in range(moment.randrange(1, 20)):
                os.read(reading, 1)
        time.sleep(moment.random() * (0.01 if number % 2 else 0.06))
        for writer in writers:
            os.kill(writer, 9)
            os.waitpid(writer, 0)
        os.close(reading)
        say("round")


def raced(path: Path, writers: int) -> None:
    """All writers open the same new file and add the same runs, each in its own order."""

    def write(name: int) -> None:
        keys = [f"key-{number}" for number in range(20)]
        random.Random(name).shuffle(keys)
        with Ledger.open(path) as ledger:
            say(f"new {sum(ledger.add_run(record(key)) for key in keys)}")

    for writer in [fork(write, name) for name in range(writers)]:
        _, status = os.waitpid(writer, 0)
        say(f"ended {status}")


def starved(path: Path, limit_bytes: int) -> None:
    """Write until no file may grow any more; then, with space again, once more."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    with Ledger.open(path) as ledger:
        _write_until_refused(ledger)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        say(f"again {ledger.add_run(record('again-1'))}")


def full(path: Path, _: int) -> None:
    """Write until the disk is full."""
    with Ledger.open(path) as ledger:
        _write_until_refused(ledger)


def _write_until_refused(ledger: Ledger) -> None:
    for number in range(5_000):
        try:
            ledger.add_run(record(f"key-{number}"))
        except LedgerError as error:
            say(f"refused {error}")
            return
        say(f"kept key-{number}")


def unprivileged(path: Path, read_only: int) -> None:
    """Open as a user without rights on the folder, and say how many runs there are, or what was refused."""
    if os.getuid() == 0:
        os.setuid(65534)
    try:
        with Ledger.open(path, read_only=bool(read_only)) as ledger:
            say(f"runs {len(ledger.runs())}")
            if not read_only:
                say(f"added {ledger.add_run(record('new-1'))}")
    except LedgerError as error:
        say(f"refused {error}")


def locked(path: Path, wait: int) -> None:
    """Hold the folder of `path` until standard input ends, and write down that it was held."""
    say("starting")
    with project_lock(path.parent, wait=bool(wait)):
        with path.open("a") as file:
            file.write("worker\n")
        say("held")
        sys.stdin.read()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
