"""Training any number of runs: group them by shape, pack each group into memory, keep every place busy.

A group's fleet starts with as many runs as fit. When members leave, waiting runs take their places; when
none wait, the fleet shrinks. What is finished is handed out at once; the rest is checkpointed, so that a
process killed at any moment continues where its last checkpoint stands.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from archer.fleet.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from archer.fleet.compile import Trouble, compiler, forget_what_is_compiled, trouble_of
from archer.fleet.data import Load
from archer.fleet.fleet import (
    Fleet,
    Member,
    device_name,
    load_splits,
    members_of,
    outcome,
    owes_a_point,
    restored,
)
from archer.fleet.groups import grouped
from archer.fleet.memory import capacity
from archer.fleet.modules import AloneMixer, for_device
from archer.fleet.race import Race, Racer, Track, starters, together
from archer.fleet.run import Outcome, Run
from archer.fleet.state import Weights
from archer.fleet.subjects import build_mixer
from archer.mad.store import load as load_examples
from archer.model.backbone import Model, Region
from archer.model.mixer import RuleMixer
from archer.rules.algebra import refuse_kernels

Event = dict[str, Any]
State = dict[str, Any]

SAVING = 0.03
"""Checkpoints take this share of the time at most: those of a large fleet are rarer."""

LOOK_UP_SECONDS = 2.0
"""On a CPU, where an epoch may take an hour, training looks up so often: to tell, to save, to stop."""


@dataclass(frozen=True)
class Options:
    """How to train, none of which changes the result of a run that finishes.

    checkpoints: folder, or None for none. checkpoint_seconds: at least this long between two, which on a GPU
    are made after an epoch. stop_after_seconds: checkpoint and stop then, leaving the rest for later.
    largest: members at most.
    memory_share: of the device's memory, the part that this process may use. compiled: None for "on a GPU".
    race: drop the grid points that lose clearly; None for none.
    """

    device: str = "cpu"
    checkpoints: Path | None = None
    checkpoint_seconds: float = 20.0
    stop_after_seconds: float | None = None
    largest: int | None = None
    memory_share: float = 1.0
    compiled: bool | None = None
    race: Race | None = None


def train(
    runs: Sequence[Run], options: Options | None = None, *, load: Load = load_examples,
    report: Callable[[Event], None] = lambda event: None,
) -> Iterator[Outcome]:  # fmt: skip
    """Trains all runs and yields each outcome as soon as it is known.

    report: hears events ({"event": "fleet" | "steps" | "epoch", ...}), "steps" within an epoch; "ages" in
    them says how many epochs old every member is, by key. Runs that are not yielded were left for later
    (stop_after_seconds).
    """
    options = options or Options()
    began = time.monotonic()
    for number, group in enumerate(grouped(runs)):
        if number and _is_over(options, began):
            return
        yield from _Packing(group, options, load, report, began).train()


def _is_over(options: Options, began: float) -> bool:
    limit = options.stop_after_seconds
    return limit is not None and time.monotonic() - began > limit


def build_model(run: Run) -> Model:
    """The model that a run trains."""
    recipe = run.recipe
    mixer = build_mixer(run.subject, recipe)
    return Model(
        mixer, run.backbone, run.setting.vocabulary, recipe.width, recipe.mixers, run.padded_length,
        recipe.embedding_deviation,
    )  # fmt: skip


class _Packing:
    """One group of runs on its way through one device."""

    def __init__(
        self, runs: list[Run], options: Options, load: Load, report: Callable[[Event], None], began: float
    ) -> None:
        self.options, self.load, self.report, self.began = options, load, report, began
        self.device = torch.device(options.device)
        self.model = for_device(build_model(runs[0]), self.device)
        compiled = options.compiled if options.compiled is not None else self.device.type == "cuda"
        self.alone = self.model.mixer if isinstance(self.model.mixer, AloneMixer) else None
        exact = self.device.type == "cuda" and runs[0].recipe.precision == "fp32"
        self.region: Region | None = compiler(exact) if compiled and not self.alone else None
        self.path = checkpoint_path(options.checkpoints, runs[0]) if options.checkpoints else None
        self.parked: State | None = None
        self.runs = together(runs) if options.race else runs
        self.track: Track | None = None
        self.paused = False
        self.refused = False
        self.saved_at, self.save_after = time.monotonic(), self.options.checkpoint_seconds

    def train(self) -> Iterator[Outcome]:
        state = read_checkpoint(self.path) if self.path else None
        yield from self._begin_race(state)
        if self.runs:
            yield from self._train(state)
        if self.path and not self.paused:
            self.path.unlink(missing_ok=True)

    def _train(self, state: State | None) -> Iterator[Outcome]:
        fleet, self.waiting = self._begin(state)
        if self.alone:
            self.report({"event": "alone", "subject": self.alone.name, "message": self.alone.why})
        self._tell_of_the_loop()
        self._announce(fleet)
        while fleet.size:
            if trouble := _advance(fleet, self._pause()):
                state = fleet.state()
                del fleet  # what it holds of the device goes before anything new comes
                fleet = self._smaller(state) if trouble.kind == "memory" else self._plainer(state, trouble)
                continue
            self._tell(fleet)
            if fleet.under_way:
                if self._goes_on(fleet):
                    continue
                return
            finished = [*self._race(fleet), *fleet.leave(fleet.is_over)]
            if self.track:  # kept before it is told: a race that is taken up again must know of it
                self.track.left(finished)
                self._save(fleet, force=bool(finished))
            yield from finished
            fleet = self._refill(fleet)
            if fleet.size and not self._goes_on(fleet, force=bool(finished)):
                return

    def _pause(self) -> Callable[[], bool] | None:
        """What leaves an epoch for a moment when it is time to look up."""
        if self.device.type != "cpu" or self.alone:
            return None
        until = time.monotonic() + min(LOOK_UP_SECONDS, self.options.checkpoint_seconds)
        return lambda: time.monotonic() >= until

    def _goes_on(self, fleet: Fleet, force: bool = False) -> bool:
        """Saves where it is time to, or all of it because the time is up: then False."""
        self.paused = self._is_time_up()
        self._save(fleet, force=force or self.paused)
        return not self.paused

    def _begin_race(self, state: State | None) -> list[Outcome]:
        """Outcomes that the checkpoint holds and nobody heard of; they need no training any more."""
        if not self.options.race:
            return []
        self.track = Track(self.options.race, self.runs, (state or {}).get("race"))
        over = self.track.over
        untold = [over[run.key] for run in self.runs if run.key in over]
        self.runs = [run for run in self.runs if run.key not in over]
        return untold

    def _begin(self, state: State | None) -> tuple[Fleet, deque[Run]]:
        """From the checkpoint, where there is one; then as many new runs as fit."""
        self.room = 1 if self.alone else self.options.largest or self._capacity()
        state = _of(state, {run.key for run in self.runs}) if state else None
        if state:
            begun = {member["key"] for member in state["members"]}
            fleet = self._back(state, self._first(state, self.room))
            return fleet, deque(run for run in self.runs if run.key not in begun)
        count = self._starters(self.runs, self.room)
        fleet = Fleet.start(self.model, self.runs[:count], self.load, self.device, self.region)
        return fleet, deque(self.runs[count:])

    def _capacity(self) -> int:
        measured = (self.model, self.runs[0], self.device, self.load, self.options.memory_share)
        try:
            return capacity(*measured)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is None or trouble.kind != "kernels":
                raise
            self._do_without(trouble)
        return capacity(*measured)

    def _starters(self, waiting: Sequence[Run], free: int) -> int:
        """How many of the waiting runs start, where so many places are free."""
        return starters(waiting, free, self.room) if self.track else min(free, len(waiting))

    def _race(self, fleet: Fleet) -> list[Outcome]:
        """Marks the members that lost their race; gives the outcomes of those that lost before they began."""
        if not self.track:
            return []
        lost = self.track.losers(self._racers(self.track, fleet))
        fleet.drop(lost)
        unstarted = [run for run in self.waiting if run.key in lost]
        self.waiting = deque(run for run in self.waiting if run.key not in lost)
        began = [replace(m, dropped=lost[m.run.key]) for m in self._parked_losers(lost)]
        return [
            *(outcome(m, self.model.parameters, device_name(self.device)) for m in began),
            *(outcome(Member(run, dropped=lost[run.key]), self.model.parameters, str(self.device))
              for run in unstarted),
        ]  # fmt: skip

    def _parked_losers(self, lost: Mapping[str, str]) -> list[Member]:
        """Takes out the parked members that lost. Who was not evaluated at its age yet is not judged yet."""
        members = self._members(self.parked)
        gone = [m for m in members if m.run.key in lost and not owes_a_point(m)]
        if gone and self.parked:
            left = {m.run.key for m in members} - {m.run.key for m in gone}
            self.parked = _of(self.parked, left)
        return gone

    def _members(self, state: State | None) -> list[Member]:
        return members_of(state, self.runs) if state else []

    def _racers(self, track: Track, fleet: Fleet) -> list[Racer]:
        """Everybody who is not over: in the fleet, parked, waiting."""
        return [
            *(track.racer(m.run.key, m.epoch, m.curve, not fleet.is_over(m)) for m in fleet.members),
            *(track.racer(m.run.key, m.epoch, m.curve) for m in self._members(self.parked)),
            *(track.racer(run.key) for run in self.waiting),
        ]

    def _refill(self, fleet: Fleet) -> Fleet:
        """Parked members first, then waiting runs, into the free places."""
        free = self.room - fleet.size
        if free > 0 and self.parked and (first := self._first(self.parked, free)):
            fleet.forget_recordings()
            back = self._back(self.parked, first)
            if back.under_way:  # these end their epoch first, and the others wait for that
                self.parked = _merge(self.parked, fleet.state() if fleet.size else None)
                return back
            fleet, free = self._joined(fleet, back), free - back.size
        count = self._starters(self.waiting, free) if free > 0 else 0
        if count:
            fleet.forget_recordings()
            new = [self.waiting.popleft() for _ in range(count)]
            fleet = self._joined(fleet, Fleet.start(self.model, new, self.load, self.device))
            self._announce(fleet)
        return fleet

    def _first(self, state: State, free: int) -> list[int]:
        """Which members of a state go on together where so many places are free: of those that are at the
        same step of an epoch as the first, whole places where they race."""
        members, order = self._members(state), {run.key: i for i, run in enumerate(self.runs)}
        alike = [i for i, m in enumerate(members) if m.steps == members[0].steps]
        alike.sort(key=lambda i: order[members[i].run.key])
        return alike[: self._starters([members[i].run for i in alike], free)]

    def _back(self, state: State, first: Sequence[int]) -> Fleet:
        """A fleet of these members of a state; the others are parked."""
        self.parked = _rows(state, [i for i in range(len(state["members"])) if i not in first])
        now = _rows(state, first)
        assert now
        return restored(self.model, self.runs, now, self.load, self.device, self.region)

    def _joined(self, fleet: Fleet, other: Fleet) -> Fleet:
        members = [*fleet.members, *other.members]
        weights: Weights = fleet.weights_of_members().join(other.weights_of_members())
        splits = load_splits([member.run for member in members], self.load, self.device)
        return Fleet(self.model, members, weights, splits, self.device, self.region)

    def _smaller(self, state: State) -> Fleet:
        """The device's memory did not suffice for a fleet in this state, which is gone: half of its members
        go on, the others wait in the CPU's memory.

        The last one, which has a spare row beside it when compiled, goes on without.
        """
        size = len(state["members"])
        if size == 1 and not self.region:
            raise MemoryError(
                f"one run of {self.runs[0].setting.name} does not fit into the memory of "
                f"{self.device}; use a smaller preset or another device"
            )
        if size == 1:
            self.region = None
        gc.collect()  # an error that was caught may hold what it came through
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.room = max(1, size // 2)
        kept, parked = _split(state, self.room)
        self.parked = _merge(parked, self.parked)
        self.report({"event": "smaller", "members": self.room})
        return restored(self.model, self.runs, kept, self.load, self.device, self.region)

    def _plainer(self, state: State, trouble: Trouble) -> Fleet:
        """A fleet in this state that goes on, slower, without what came between."""
        self._do_without(trouble)
        return restored(self.model, self.runs, state, self.load, self.device, self.region)

    def _do_without(self, trouble: Trouble) -> None:
        """Without our kernels, in this whole process; else, or where that did not help, uncompiled.

        Raises RuntimeError where neither is left.
        """
        kernels = trouble.kind == "kernels" and not self.refused
        if kernels:
            self.refused = True
            refuse_kernels()
            forget_what_is_compiled()
        elif self.region:
            self.region = None
        else:
            raise RuntimeError(trouble.why)
        self.report(
            {"event": "plainer", "subject": self.runs[0].subject.name, "message": trouble.why,
             "without": "Archer's kernels" if kernels else "compiling"}
        )  # fmt: skip

    def _tell_of_the_loop(self) -> None:
        """That a rule's loop is no kernel where kernels are used: its author may want to know why."""
        mixer = self.model.mixer
        if isinstance(mixer, RuleMixer) and mixer.without_kernel:
            self.report(
                {"event": "plainer", "subject": mixer.name, "message": mixer.without_kernel,
                 "without": "a kernel for its loop"}
            )  # fmt: skip

    def _is_time_up(self) -> bool:
        return _is_over(self.options, self.began)

    def _save(self, fleet: Fleet, force: bool = False) -> None:
        if not self.path or not (fleet.size or self.track):
            return
        began = time.monotonic()
        if force or began - self.saved_at >= self.save_after:
            try:
                state = _merge(fleet.state(), self.parked) or {}
                race = {"race": self.track.state()} if self.track else {}
                write_checkpoint(self.path, state | race)
            except OSError as error:  # a full disk: training can go on, only not be taken up again from here
                self.report({"event": "unsaved", "message": f"no checkpoint: {error.strerror or error}"})
            self.saved_at = time.monotonic()
            if self.options.checkpoint_seconds:
                took = self.saved_at - began
                self.save_after = max(self.options.checkpoint_seconds, took / SAVING)

    def _announce(self, fleet: Fleet) -> None:
        run = self.runs[0]
        settings = sorted({member.run.setting.name for member in fleet.members})
        self.report(
            {"event": "fleet", "subject": run.subject.name, "settings": settings, "members": fleet.size,
             "waiting": len(self.waiting), "epochs": run.recipe.epochs, "parameters": self.model.parameters,
             "ages": _ages([*fleet.members, *self._members(self.parked)], fleet.steps_per_epoch)}
        )  # fmt: skip

    def _tell(self, fleet: Fleet) -> None:
        tasks: dict[str, list[float]] = {}
        for member in fleet.members:
            if member.curve:
                tasks.setdefault(member.run.setting.task, []).append(member.curve[-1].validation_accuracy)
        best = {task: max(values) for task, values in tasks.items()}
        ages = _ages(fleet.members, fleet.steps_per_epoch)
        run = fleet.members[0].run
        self.report(
            {"event": "steps" if fleet.under_way else "epoch", "subject": run.subject.name, "ages": ages,
             "epoch": max(ages.values()), "epochs": run.recipe.epochs, "members": fleet.size, "best": best}
        )  # fmt: skip


def _ages(members: Sequence[Member], steps_per_epoch: int) -> dict[str, float]:
    """How many epochs old every member is."""
    return {m.run.key: m.epoch + m.steps / steps_per_epoch for m in members}


def _advance(fleet: Fleet, pause: Callable[[], bool] | None) -> Trouble | None:
    """Trains for an epoch, or until a pause in it, and evaluates who is due; says what came between.

    A fleet in the state that is left, some of it trained and not evaluated yet, goes on to the same results.
    """
    try:
        if not fleet.due():
            fleet.run_epoch(pause)
        if fleet.due():
            fleet.evaluate()
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is None or (trouble.kind == "compiler" and not fleet.region):
            raise
        return trouble
    return None


def _of(state: State, keys: Set[str]) -> State | None:
    """A fleet's state without the members that nobody wants any more; None where nobody is left."""
    return _rows(state, [i for i, member in enumerate(state["members"]) if member["key"] in keys])


def _split(state: State, count: int) -> tuple[State, State | None]:
    """The first `count` members of a fleet's state, at least one, and the others."""
    rows = range(len(state["members"]))
    first = _rows(state, rows[:count])
    assert first
    return first, _rows(state, rows[count:])


def _rows(state: State, rows: Sequence[int]) -> State | None:
    """Some members of a fleet's state."""
    weights = {name: tensor[list(rows)] for name, tensor in state["weights"].items()}
    return {"members": [state["members"][i] for i in rows], "weights": weights} if rows else None


def _merge(first: State | None, second: State | None) -> State | None:
    """The members of two states of one model."""
    if first is None or second is None:
        return first or second
    weights = {
        name: torch.cat([tensor, second["weights"][name]]) for name, tensor in first["weights"].items()
    }
    return {"members": [*first["members"], *second["members"]], "weights": weights}
