"""Archer's side of training: divides runs among devices, starts one training process for each, listens.

A training process that dies takes nothing with it: what it finished is known, the rest is trained again from
its checkpoints, and a run whose process dies with it alone is reported as crashed.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from archer.errors import UserError
from archer.fleet.run import Outcome, Run
from archer.fleet.wire import outcome_from_json, runs_to_json

Event = dict[str, Any]


class Process(Protocol):
    """A started training process: its lines as they come, and how it ended, in words ("" for well)."""

    def lines(self) -> Iterator[str]: ...
    def kill(self) -> None: ...
    def end(self) -> str: ...


Start = Callable[[list[str], Path, bool], Process]
"""Starts a command with a scratch folder that it may write, with a GPU or not."""


@dataclass(frozen=True)
class Crash:
    """A run whose training process died, with what it said last."""

    key: str
    message: str


@dataclass(frozen=True)
class Plan:
    """Where and how to train. devices: "cpu", "cuda:0", ...; one process each. threads: for each process."""

    devices: tuple[str, ...]
    scratch: Path
    threads: int
    stop_after_seconds: float | None = None
    checkpoint_seconds: float = 20.0
    data_dir: Path | None = None
    largest: int | None = None


class PlainProcess:
    """A training process without walls: for tests, and for code that is one's own."""

    def __init__(self, command: list[str], scratch: Path, gpu: bool) -> None:
        self.log = scratch / "worker.log"
        with open(self.log, "a") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            yield from lines

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> str:
        status = self.process.wait()
        if status == 0:
            return ""
        last = self.log.read_text(errors="replace")[-4000:].strip().splitlines()
        return f"status {status}{f': {last[-1][:300]}' if last else ''}"


def launch(
    runs: Sequence[Run],
    plan: Plan,
    *,
    start: Start = PlainProcess,
    report: Callable[[Event], None] = lambda e: None,
) -> Generator[Outcome | Crash, None, None]:
    """Trains runs in processes of their own; yields each outcome as soon as it is known.

    Runs that are neither yielded nor crashed were left for later (stop_after_seconds). Closing the iterator,
    or an interrupt, stops all processes; their checkpoints stay. Raises what keeps a process from being
    started at all (OSError on a full disk).
    """
    shares = _divide(runs, len(plan.devices))
    messages: queue.Queue[tuple[int, Outcome | Crash | Event | Exception | None]] = queue.Queue()
    processes: list[_Share] = [
        _Share(index, share, plan, start, messages) for index, share in enumerate(shares) if share
    ]
    try:
        for process in processes:
            process.begin()
        busy = len(processes)
        while busy:
            index, message = messages.get()
            if message is None:
                busy -= 1
            elif isinstance(message, Exception):
                raise message
            elif isinstance(message, dict):
                report({**message, "device": plan.devices[index]})
            else:
                yield message
    finally:
        for process in processes:
            process.stop()


def _divide(runs: Sequence[Run], parts: int) -> list[list[Run]]:
    """Whole groups to the least loaded part, the heaviest first; weight: tokens to train on."""
    groups: dict[Any, list[Run]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault(run.group, []).append(run)
    weights = {
        g: sum(r.setting.train_examples * r.padded_length * r.recipe.epochs for r in v)
        for g, v in groups.items()
    }
    shares: list[list[Run]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for group in sorted(groups, key=lambda g: -weights[g]):
        lightest = loads.index(min(loads))
        shares[lightest] += groups[group]
        loads[lightest] += weights[group]
    return shares


class _Share:
    """The runs of one device, and the process that trains them, restarted while that helps."""

    def __init__(
        self, index: int, runs: list[Run], plan: Plan, start: Start, messages: queue.Queue[Any]
    ) -> None:
        self.index, self.plan, self.start, self.messages = index, plan, start, messages
        self.left = {run.key: run for run in runs}
        self.stopping = False
        self.process: Process | None = None
        self.scratch = plan.scratch / f"device-{index}"
        self.thread = threading.Thread(target=self._work, daemon=True)

    def begin(self) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopping = True
        if self.process:
            self.process.kill()
        self.thread.join(timeout=10)

    def _work(self) -> None:
        try:
            self._train_all()
        except Exception as error:  # noqa: BLE001  raised again by `launch`: this thread has nobody to tell
            self.messages.put((self.index, error))
        finally:
            self.messages.put((self.index, None))

    def _train_all(self) -> None:
        """Starts over after a death as long as something was finished in between; then one group at a time.

        So only the runs of the group that kills its process are given up.
        """
        batches = [list(self.left.values())]
        while batches and not self.stopping:
            batch = [run for run in batches.pop(0) if run.key in self.left]
            if not batch:
                continue
            before = len(self.left)
            ended, why = self._train(batch)
            if ended or self.stopping:
                continue
            rest = [run for run in batch if run.key in self.left]
            groups = {run.group for run in rest}
            if len(self.left) < before:
                batches.insert(0, rest)
            elif len(groups) > 1:
                batches = [[run for run in rest if run.group == group] for group in groups] + batches
            else:
                self._give_up(rest, why)

    def _give_up(self, runs: list[Run], why: str) -> None:
        for run in runs:
            del self.left[run.key]
            self.messages.put((self.index, Crash(run.key, why)))

    def _train(self, runs: list[Run]) -> tuple[bool, str]:
        """One process. Returns whether it ended as planned, and what it said otherwise."""
        path = self.scratch / "plan.json"
        options = {
            "device": self.plan.devices[self.index], "checkpoints": str(self.scratch / "checkpoints"),
            "checkpoint_seconds": self.plan.checkpoint_seconds, "largest": self.plan.largest,
            "stop_after_seconds": self.plan.stop_after_seconds,
        }  # fmt: skip
        data_dir = str(self.plan.data_dir) if self.plan.data_dir else None
        plan = {**runs_to_json(runs), "options": options, "threads": self.plan.threads, "data_dir": data_dir}
        path.write_text(json.dumps(plan))
        gpu = self.plan.devices[self.index].startswith("cuda")
        self.process = self.start([sys.executable, "-m", "archer.fleet.worker", str(path)], self.scratch, gpu)
        if self.stopping:  # it was asked to stop while it was being started
            self.process.kill()
        ended, why = self._listen(self.process)
        end = self.process.end()
        return ended, why or f"the training process ended early ({end or 'without a word'})"

    def _listen(self, process: Process) -> tuple[bool, str]:
        """Whether it said that all is done, and what was wrong with what it said."""
        for line in process.lines():
            try:
                event = json.loads(line)
                kind = event["event"]
                if kind == "outcome":
                    outcome = outcome_from_json(event["outcome"], set(self.left))
                    del self.left[outcome.key]
                    self.messages.put((self.index, outcome))
            except (ValueError, KeyError, TypeError) as error:
                process.kill()
                return False, f"the training process wrote something that is no result: {error}"
            if kind == "done":
                return True, ""
            if kind == "failed":
                return False, str(event.get("message", ""))[:1000]
            if kind != "outcome":
                self.messages.put((self.index, event))
        return False, ""


def available_devices(asked: str | None = None) -> tuple[str, ...]:
    """The devices to train on: all GPUs where there are some, else the CPU.

    asked: "cpu", "cuda" (all GPUs), "cuda:1", or None for what there is. Raises UserError for others.
    """
    if asked == "cpu":
        return (asked,)
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked and asked not in ("cuda", *(f"cuda:{i}" for i in range(gpus))):
        raise UserError(
            f"there is no device '{asked}' here; choices: cpu{''.join(f', cuda:{i}' for i in range(gpus))}"
        )
    if asked == "cuda" and not gpus:
        raise UserError("device cuda was asked for, but PyTorch sees no GPU here; use --device cpu")
    if asked and asked != "cuda":
        return (asked,)
    return tuple(f"cuda:{i}" for i in range(gpus)) or ("cpu",)


def cpu_threads() -> int:
    """Threads for one training process on the CPU: OMP_NUM_THREADS where it is set, as for any program that
    uses OpenMP; else the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal() and int(asked):
        return int(asked)
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
