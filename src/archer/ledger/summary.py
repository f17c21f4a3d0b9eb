"""From runs to scores: one number per rule and task, and beside it what is missing.

Every setting of a task is trained over a grid of learning rates and weight decays; one grid point stands for
the setting, a task's score is the mean over its settings, then over seeds. A setting without a finished run
makes the task's score None: a run that diverged is counted and shown, never averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from archer.ledger.records import TASKS, RunRecord

Select = Literal["mad", "held_out"]
Place = tuple[str, str, int]
"""Task, setting and seed."""


@dataclass(frozen=True)
class Missing:
    """Runs without a score. absent: not there at all. settings: those without any finished run for a seed.

    What a race dropped is not missing: another grid point of its setting and seed stands for it.
    """

    diverged: int = 0
    crashed: int = 0
    absent: int = 0
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = {"diverged": self.diverged, "crashed": self.crashed, "not run": self.absent}
        words = [f"{count} {word}" for word, count in counts.items() if count]
        return ", ".join([*words, *([f"no score for {', '.join(self.settings)}"] if self.settings else [])])


@dataclass(frozen=True)
class ScoreRow:
    """One rule's scores under one preset.

    scores: task to score, None where a setting has no finished run. mean: over the six, None where one is.
    seeds: how many in any task; seeds that were added in some tasks count in those alone. missing: task to
    what has no score; tasks with nothing missing are not in it.
    """

    rule: str
    rule_hash: str
    scores: dict[str, float | None]
    mean: float | None
    seeds: int
    missing: dict[str, Missing]


@dataclass(frozen=True)
class _Plan:
    """What a complete rule would have."""

    settings: Mapping[str, tuple[str, ...]]
    grid: tuple[tuple[float, float], ...]


def score_table(
    runs: Iterable[RunRecord],
    preset: str,
    select: Select = "held_out",
    settings: Mapping[str, Iterable[str]] | None = None,
    grid: Iterable[tuple[float, float]] | None = None,
) -> tuple[ScoreRow, ...]:
    """One row per rule (and rule hash: an edited rule is another rule) trained under the preset, by name.

    select: "held_out" takes, per setting, the grid point with the best validation accuracy and its held-out
    score; "mad" takes the best test accuracy of the grid, as mad-lab does (Poli 2024, arXiv:2403.17844).
    settings, grid: what belongs to the preset (task to settings; learning rate and weight decay). Left out,
    they are all that any rule was trained on, so a setting that no rule has been trained on is not missed.
    """
    kept = _latest(run for run in runs if run.preset == preset)
    plan = _plan(kept, settings, grid)
    rules = sorted({(run.rule, run.rule_hash) for run in kept})
    return tuple(_row(rule, rule_hash, kept, plan, select) for rule, rule_hash in rules)


def chosen_runs(runs: Iterable[RunRecord], select: Select = "held_out") -> dict[Place, RunRecord]:
    """The finished run that stands for each setting and seed of one rule under one preset."""
    chosen: dict[Place, RunRecord] = {}
    for run in sorted(_latest(runs), key=lambda run: (run.learning_rate, run.weight_decay)):
        place = (run.task, run.setting, run.seed)
        if run.status == "finished" and (
            place not in chosen or _merit(run, select) > _merit(chosen[place], select)
        ):
            chosen[place] = run
    return chosen


def _merit(run: RunRecord, select: Select) -> float:
    """What a grid point is chosen by. Equal merits: the smaller learning rate, then weight decay, stays."""
    if select not in ("mad", "held_out"):
        raise ValueError(f"select is {select!r}: expected 'held_out' or 'mad'")
    merit = run.mad if select == "mad" else run.validation
    return -math.inf if merit is None else merit


def recency(run: RunRecord) -> tuple[int, str, str]:
    """What sorts the records of one rule and grid point, that which counts last: the latest result. What
    crashed or was dropped by a race is no result, and counts only where there is none."""
    return ({"crashed": 0, "dropped": 1}.get(run.status, 2), run.finished_at, run.key)


def _latest(runs: Iterable[RunRecord]) -> tuple[RunRecord, ...]:
    """One run per rule and grid point: where the training code changed in between, the latest result."""
    latest: dict[tuple[object, ...], RunRecord] = {}
    for run in sorted(runs, key=recency):
        point = (run.learning_rate, run.weight_decay, run.seed)
        latest[(run.rule, run.rule_hash, run.preset, run.task, run.setting, *point)] = run
    return tuple(latest.values())


def _plan(
    runs: tuple[RunRecord, ...],
    settings: Mapping[str, Iterable[str]] | None,
    grid: Iterable[tuple[float, float]] | None,
) -> _Plan:
    if settings is None:
        settings = {task: {run.setting for run in runs if run.task == task} for task in TASKS}
    points = {(run.learning_rate, run.weight_decay) for run in runs} if grid is None else grid
    return _Plan({task: tuple(sorted(names)) for task, names in settings.items()}, tuple(sorted(points)))


def _row(rule: str, rule_hash: str, runs: tuple[RunRecord, ...], plan: _Plan, select: Select) -> ScoreRow:
    own = tuple(run for run in runs if (run.rule, run.rule_hash) == (rule, rule_hash))
    every = sorted({run.seed for run in own})
    seeds = {task: sorted({run.seed for run in own if run.task == task}) or every for task in TASKS}
    chosen = chosen_runs(own, select)
    scores = {task: _task_score(task, chosen, seeds[task], plan, select) for task in TASKS}
    missing = {task: _missing(task, own, chosen, seeds[task], plan) for task in TASKS}
    return ScoreRow(
        rule=rule,
        rule_hash=rule_hash,
        scores=scores,
        mean=_mean(list(scores.values())),
        seeds=len(every),
        missing={task: what for task, what in missing.items() if what != Missing()},
    )


def _task_score(
    task: str, chosen: dict[Place, RunRecord], seeds: list[int], plan: _Plan, select: Select
) -> float | None:
    """Mean over settings, then over seeds."""
    return _mean(
        [
            _mean(
                [_score(chosen.get((task, setting, seed)), select) for setting in plan.settings.get(task, ())]
            )
            for seed in seeds
        ]
    )


def _score(run: RunRecord | None, select: Select) -> float | None:
    if run is None:
        return None
    return run.mad if select == "mad" else run.held_out


def _mean(values: list[float | None]) -> float | None:
    """The mean, and None where one value is missing or there is none at all."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None


def _missing(
    task: str, own: tuple[RunRecord, ...], chosen: dict[Place, RunRecord], seeds: list[int], plan: _Plan
) -> Missing:
    names = plan.settings.get(task, ())
    if not names:
        return Missing(settings=("any setting",))
    there = {
        (run.setting, run.seed, run.learning_rate, run.weight_decay): run.status
        for run in own
        if run.task == task and run.setting in names
    }
    wanted = {(setting, seed, *point) for setting in names for seed in seeds for point in plan.grid}
    states = list(there.values())
    empty = [name for name in names if any((task, name, seed) not in chosen for seed in seeds)]
    return Missing(
        states.count("diverged"), states.count("crashed"), len(wanted - there.keys()), tuple(empty)
    )
