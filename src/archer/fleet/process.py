"""Training processes: where they run, how one is started, and what can be asked of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from archer.fleet.race import Race


@dataclass(frozen=True)
class Plan:
    """Where and how to train.

    devices: "cpu", "cuda:0", ... threads: for each process. processes_per_device: at most; no more are
    started than there are groups. scratch: where processes keep their logs and checkpoints. race: drop the
    grid points that lose clearly; None for none.
    """

    devices: tuple[str, ...]
    scratch: Path
    threads: int
    stop_after_seconds: float | None = None
    checkpoint_seconds: float = 20.0
    data_dir: Path | None = None
    largest: int | None = None
    processes_per_device: int = 1
    race: Race | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """The device of every process; neighbours are on different devices."""
        return self.devices * self.processes_per_device

    def scratch_of(self, place: int) -> Path:
        """Where the process at a place keeps its files."""
        return self.scratch / f"device-{place}"

    def label(self, place: int) -> str:
        """A process's device for the person who watches, with a number where it has neighbours there."""
        number = f" ({place // len(self.devices) + 1})" if self.processes_per_device > 1 else ""
        return f"{self.places[place]}{number}"


class Process(Protocol):
    """A started training process, which is given one plan after the other.

    give: a plan, in one line. lines: what it says. end: there are no more plans; waits until it has ended,
    and says how, in words ("" for well).
    """

    def give(self, text: str) -> None: ...
    def lines(self) -> Iterator[str]: ...
    def kill(self) -> None: ...
    def end(self) -> str: ...


Start = Callable[[list[str], Path, bool], Process]
"""Starts a command with a scratch folder that it may write, with a GPU or not."""


class PlainProcess:
    """A training process without walls: for tests, and for code that is one's own."""

    def __init__(self, command: list[str], scratch: Path, gpu: bool) -> None:
        self.log = scratch / "worker.log"
        with open(self.log, "a") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,
            )  # fmt: skip

    def give(self, text: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            yield from lines

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> str:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait()
        if status == 0:
            return ""
        last = self.log.read_text(errors="replace")[-4000:].strip().splitlines()
        return f"status {status}{f': {last[-1][:300]}' if last else ''}"


def training_process(plan: Plan, place: int) -> list[str]:
    """The command of the process at a place."""
    return [sys.executable, "-m", "archer.fleet.worker", plan.places[place], str(plan.threads)]
