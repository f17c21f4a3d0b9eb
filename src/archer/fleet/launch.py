"""Archer's side of training: starts training processes on each device, hands out groups of runs, listens.

    python -m archer.fleet.launch PLAN.json OUTCOMES.jsonl [--processes N]

trains a plan (see `results/advance.py`) on all devices that it names, without walls. A device takes several
processes at once: while one compiles the next shape, another trains.

A training process that dies takes nothing with it: what it finished is known, the rest is trained again from
its checkpoints, in fleets that get smaller while nothing is finished; a group whose process dies with one run
in training is reported as crashed.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from archer.errors import UserError
from archer.fleet.checkpoint import checkpoint_path
from archer.fleet.devices import available_devices, processes_per_device, threads_for
from archer.fleet.groups import Waiting
from archer.fleet.process import PlainProcess, Plan, Process, Start, training_process
from archer.fleet.race import Race, race_from_json
from archer.fleet.run import Outcome, Run
from archer.fleet.standby import Standby
from archer.fleet.wire import (
    event_from_json,
    outcome_from_json,
    outcome_to_json,
    runs_from_json,
    runs_to_json,
)

Event = dict[str, Any]


@dataclass(frozen=True)
class Crash:
    """A run whose training process died, with what it said last."""

    key: str
    message: str


def launch(
    runs: Sequence[Run],
    plan: Plan,
    *,
    start: Start = PlainProcess,
    report: Callable[[Event], None] = lambda e: None,
    standby: Standby | None = None,
) -> Generator[Outcome | Crash, None, None]:
    """Trains runs in processes of their own; yields each outcome as soon as it is known.

    Runs that are neither yielded nor crashed were left for later (stop_after_seconds). Closing the iterator,
    or an interrupt, stops all processes; their checkpoints stay. Raises what keeps a process from being
    started at all (OSError on a full disk). standby: has processes that wait for their plan; one that ends
    before it began is replaced by a new one.
    """
    waiting = Waiting(runs, len(plan.devices))
    messages: queue.Queue[tuple[int, Outcome | Crash | Event | Exception | None]] = queue.Queue()
    places = [
        _Place(index, group, waiting, plan, start, messages, standby)
        for index, group in waiting.first(len(plan.places))
    ]
    try:
        for place in places:
            place.thread.start()
        busy = len(places)
        while busy:
            index, message = messages.get()
            if message is None:
                busy -= 1
            elif isinstance(message, Exception):
                raise message
            elif isinstance(message, dict):
                report({**message, "device": plan.label(index)})
            else:
                yield message
    finally:
        for place in places:
            place.stop()


class _Place:
    """One process at a time, which trains one group after the other, and is replaced while that helps."""

    def __init__(
        self, index: int, first: list[Run], waiting: Waiting, plan: Plan, start: Start,
        messages: queue.Queue[Any], standby: Standby | None,
    ) -> None:  # fmt: skip
        self.index, self.first, self.waiting, self.plan = index, first, waiting, plan
        self.start, self.messages, self.standby = start, messages, standby
        self.device = plan.places[index]
        self.scratch = plan.scratch_of(index)
        self.left: dict[str, Run] = {}
        self.largest = plan.largest
        self.in_training = 0
        self.stopping = False
        self.process: Process | None = None
        self.lines: Iterator[str] = iter(())
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def stop(self) -> None:
        self.stopping = True
        if self.process:
            self.process.kill()
        if self.thread.is_alive():
            self.thread.join(timeout=10)

    def _work(self) -> None:
        try:
            self._train_all()
        except Exception as error:  # noqa: BLE001  raised again by `launch`: this thread has nobody to tell
            self.messages.put((self.index, error))
        finally:
            self.messages.put((self.index, None))

    def _train_all(self) -> None:
        """Group after group, at least one, until none is left or the time is over."""
        (self.scratch / "checkpoints").mkdir(parents=True, exist_ok=True)
        group = self.first
        while group and not self.stopping:
            self._take_checkpoint(group[0])
            self._train_group(group)
            group = self.waiting.take(self.index) if self._seconds_left() != 0.0 else []
        if self.process:
            self.process.end()

    def _take_checkpoint(self, run: Run) -> None:
        """Brings the checkpoint of a run's group here, where an earlier call trained it next door."""
        name = checkpoint_path(Path(), run).name
        kept = sorted(
            self.plan.scratch.glob(f"device-*/checkpoints/{name}"), key=lambda path: path.stat().st_mtime
        )
        if kept and kept[-1].parent.parent != self.scratch:
            os.replace(kept[-1], self.scratch / "checkpoints" / name)

    def _train_group(self, group: list[Run]) -> None:
        """Trains it again after a death, as long as something was finished or the process had a past, and
        else in a fleet of half the size: that it died for want of memory is likely, and it cannot say so.

        So only the runs of a group that kills a process of its own, one run at a time, are given up.
        """
        self.left, self.largest = {run.key: run for run in group}, self.plan.largest
        while self.left and not self.stopping:
            before, fresh = len(self.left), self._ensure_process()
            why = self._train()
            if not why:
                return
            if self.stopping or not fresh or len(self.left) < before:
                continue
            if self.in_training > 1:
                self.largest = self.in_training // 2
            else:
                self._give_up(why)

    def _ensure_process(self) -> bool:
        """Whether the process was started for this very group: it has no past, and has not waited."""
        if self.process:
            return False
        waiting = self.standby.take(self.plan, self.index) if self.standby else None
        self.process = waiting or self.start(
            training_process(self.plan, self.index), self.scratch, self.device.startswith("cuda")
        )
        self.lines = iter(self.process.lines())
        if self.stopping:  # it was asked to stop while it was being started
            self.process.kill()
        return waiting is None

    def _give_up(self, why: str) -> None:
        for key in self.left:
            self.messages.put((self.index, Crash(key, why)))
        self.left = {}

    def _train(self) -> str:
        """What is left of a group, in the process that there is: "" where that ended as planned, else what it
        said; then there is no process any more."""
        assert self.process
        self.in_training = 0
        self.process.give(json.dumps(self._order()))
        ended, why = self._listen(self.process)
        if ended:
            return ""
        end = self.process.end()
        self.process = None
        if why:  # it did not die, so a smaller fleet is no help
            self.in_training = 0
        return why or f"the training process ended early ({end or 'without a word'})"

    def _order(self) -> dict[str, Any]:
        """The plan that a training process is told; see `archer.fleet.worker`."""
        options = {
            "device": self.device, "checkpoints": str(self.scratch / "checkpoints"),
            "checkpoint_seconds": self.plan.checkpoint_seconds, "largest": self.largest,
            "stop_after_seconds": self._seconds_left(), "memory_share": 1 / self.plan.processes_per_device,
            "race": asdict(self.plan.race) if self.plan.race else None,
        }  # fmt: skip
        data_dir = str(self.plan.data_dir) if self.plan.data_dir else None
        return {**runs_to_json(list(self.left.values())), "options": options, "data_dir": data_dir}

    def _seconds_left(self) -> float | None:
        """Of the time to train, what is left now; a group that starts late does not get it all again."""
        limit = self.plan.stop_after_seconds
        return None if limit is None else max(0.0, limit - (time.monotonic() - self.began))

    def _listen(self, process: Process) -> tuple[bool, str]:
        """Whether it said that all is done, and what was wrong with what it said."""
        for line in self.lines:
            try:
                event = json.loads(line)
                kind = event["event"]
                if kind == "outcome":
                    outcome = outcome_from_json(event["outcome"], set(self.left))
                    if outcome.status == "dropped" and not self.plan.race:
                        raise ValueError(f"run {outcome.key} was dropped, but no race was asked for")
                    del self.left[outcome.key]
                    self.messages.put((self.index, outcome))
                elif kind != "ready":
                    event = event_from_json(event)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                process.kill()
                return False, f"the training process wrote something that is no result: {error}"
            if kind == "done":
                return True, ""
            if kind == "failed":
                return False, str(event.get("message", ""))[:1000]
            if kind in ("fleet", "smaller"):
                self.in_training = min(int(event["members"]), self.largest or len(self.left), len(self.left))
            if kind not in ("ready", "outcome"):
                self.messages.put((self.index, event))
        return False, ""


def main(arguments: list[str] | None = None) -> int:
    """Trains a plan's runs and adds their outcomes, as lines of JSON, to a file; those in it are not trained
    again, so that the same command continues. Returns the exit status, 2 where the user can put it right."""
    parser = argparse.ArgumentParser(
        prog="python -m archer.fleet.launch", description="Trains a plan on all its devices."
    )
    parser.add_argument("plan", type=Path, help="as `results/advance.py plan` writes it")
    parser.add_argument("outcomes", type=Path, help="file of outcomes, which is continued")
    parser.add_argument("--processes", type=int, help="training processes per device; default: by its cores")
    parser.add_argument("--seconds", type=float, help="stop after so long, instead of what the plan says")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the processes are stopped too
    try:
        return _train_plan(_read_plan(given.plan), given)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _read_plan(path: Path) -> dict[str, Any]:
    """A plan from its file. Raises UserError where there is none."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is no plan ({error}); `python results/advance.py plan` writes one"
        ) from error
    wanted = {"runs", "subjects", "options", "data_dir"}
    if not isinstance(plan, dict) or wanted - plan.keys():
        raise UserError(
            f"{path} is no plan: expected an object with {', '.join(sorted(wanted))}; "
            "`python results/advance.py plan` writes one"
        )
    return plan


def _train_plan(plan: dict[str, Any], given: argparse.Namespace) -> int:
    """Events but "steps" and "epoch" are lines on standard output; outcomes are also added to the file."""
    options = plan["options"]
    devices = available_devices(options["device"])
    each = given.processes or processes_per_device(devices)
    runs = runs_from_json(plan)
    race = race_from_json(options.get("race"))
    known = _known_outcomes(given.outcomes, {run.key for run in runs}, race)
    here = Plan(
        devices, Path(options["checkpoints"]), threads_for(each * len(devices)),
        given.seconds or options["stop_after_seconds"], options["checkpoint_seconds"],
        Path(plan["data_dir"]) if plan["data_dir"] else None, options["largest"], each, race,
    )  # fmt: skip
    _say({"event": "start", "runs": len(runs), "known": len(known), "places": len(here.places)})
    crashed, left = 0, [run for run in runs if run.key not in known]
    with closing(launch(left, here, report=_say)) as outcomes, open(given.outcomes, "a") as file:
        for outcome in outcomes:
            if isinstance(outcome, Crash):
                crashed += 1
                _say({"event": "crash", "key": outcome.key, "message": outcome.message})
                continue
            line = json.dumps({"event": "outcome", "outcome": outcome_to_json(outcome)}, allow_nan=False)
            file.write(f"{line}\n")
            file.flush()
            known.add(outcome.key)
            _say({"event": "outcome", "key": outcome.key, "status": outcome.status, "of": len(runs),
                  "known": len(known), "epochs": outcome.epochs, "held_out": outcome.held_out})  # fmt: skip
    _say({"event": "done", "known": len(known), "crashed": crashed, "left": len(runs) - len(known) - crashed})
    return 0


def _known_outcomes(path: Path, wanted: set[str], race: Race | None) -> set[str]:
    """Keys of the outcomes in a file. A last line that is torn is cut off: its run is trained again.

    What a race dropped is an outcome for a race only. Raises UserError for any other line that is no outcome.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        path.write_text("".join(lines))
    try:
        events = [json.loads(line) for line in lines]
        outcomes = [event["outcome"] for event in events if event["event"] == "outcome"]
        return {one["key"] for one in outcomes if race or one["status"] != "dropped"} & wanted
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no file of outcomes ({error}); give another, or a new name") from error


def _say(event: Event) -> None:
    if event["event"] not in ("steps", "epoch"):
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
