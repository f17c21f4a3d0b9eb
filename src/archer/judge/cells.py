"""From runs to cells: one score for each rule, task, setting and seed, its grid point chosen on validation.

A cell is scored, failed (every grid point of it diverged, crashed or scored NaN) or missing (never trained).
Two rules are compared on the grid points that both were trained at, so that neither was tuned more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from archer.judge.ceiling import MARGIN, at_ceiling, solved_after
from archer.judge.errors import JudgeError
from archer.ledger.records import TASKS, RunRecord
from archer.ledger.summary import recency

GridPoint = tuple[float, float]
"""Learning rate and weight decay."""

CellKey = tuple[str, str, str, int]
"""Rule, task, setting, seed."""


@dataclass(frozen=True)
class Cell:
    """One rule on one setting with one seed, after the choice of the grid point.

    score: held-out accuracy at the chosen point, None unless state is "scored". failures: what went wrong
    at which grid points, in words; a cell may be scored and have failures. A point that a race dropped
    cannot be chosen and is no failure: with nothing else to choose among the cell is missing. solved_after:
    epochs until the chosen run reached the stop accuracy; None where it did not.
    """

    key: CellKey
    state: Literal["scored", "failed", "missing"]
    score: float | None = None
    run_key: str | None = None
    grid: tuple[GridPoint, ...] = ()
    failures: tuple[str, ...] = ()
    solved_after: int | None = None


class Cells:
    """The runs of one preset, looked up by cell. Of repeated records the latest result counts (`recency`)."""

    def __init__(self, runs: Iterable[RunRecord], preset: str) -> None:
        self.preset = preset
        self._points: dict[CellKey, dict[GridPoint, RunRecord]] = defaultdict(dict)
        hashes: dict[str, str] = {}
        for run in sorted((run for run in runs if run.preset == preset), key=recency):
            _refuse_two_functions(hashes, run)
            key = (run.rule, run.task, run.setting, run.seed)
            self._points[key][(run.learning_rate, run.weight_decay)] = run
        self.hashes = hashes

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(sorted({key[0] for key in self._points}))

    def settings(self, task: str, rules: Sequence[str] | None = None) -> tuple[str, ...]:
        """Settings of a task in which any of `rules` (all, if None) was trained, sorted."""
        wanted = None if rules is None else set(rules)
        return tuple(
            sorted(
                {key[2] for key in self._points if key[1] == task and (wanted is None or key[0] in wanted)}
            )
        )

    def seeds(self, rule: str, task: str) -> frozenset[int]:
        return frozenset(key[3] for key in self._points if key[0] == rule and key[1] == task)

    def grid(self, key: CellKey) -> frozenset[GridPoint]:
        return frozenset(self._points.get(key, {}))

    def cell(self, key: CellKey, grid: frozenset[GridPoint] | None = None) -> Cell:
        """The cell, chosen among `grid` (all of its own points, if None)."""
        points = self._points.get(key, {})
        return choose(key, [run for point, run in sorted(points.items()) if grid is None or point in grid])

    def of(self, rule: str, task: str) -> tuple[Cell, ...]:
        """The cells of a rule on a task that were trained, by setting and seed."""
        keys = sorted(key for key in self._points if key[:2] == (rule, task))
        return tuple(self.cell(key) for key in keys)

    def without_room(self, rule: str, margin: float = MARGIN) -> tuple[str, ...]:
        """The tasks in which the rule lies within the margin of 1, in every setting and seed."""
        return tuple(task for task in TASKS if at_ceiling((c.score for c in self.of(rule, task)), margin))

    def epochs_until_solved(self, rule: str, task: str) -> tuple[int | None, ...]:
        """For each setting and seed the epochs until the chosen run reached the stop accuracy; None: never.

        A description of these runs: it depends on the grid, on how often was evaluated, and on a race's end.
        """
        return tuple(cell.solved_after for cell in self.of(rule, task))

    def score(self, rule: str, task: str, setting: str, seed: int) -> float | None:
        return self.cell((rule, task, setting, seed)).score


def choose(key: CellKey, runs: Sequence[RunRecord]) -> Cell:
    """The run with the highest validation accuracy; ties go to the smaller learning rate, then weight decay.

    Runs without a finite score or validation cannot be chosen.
    """
    if not runs:
        return Cell(key, "missing")
    usable = [run for run in runs if is_scored(run)]
    failures = tuple(
        _failure(run) for run in runs if not is_scored(run) and not (usable and run.status == "dropped")
    )
    grid = tuple((run.learning_rate, run.weight_decay) for run in runs)
    if not usable:
        dropped = all(run.status == "dropped" for run in runs)
        return Cell(key, "missing" if dropped else "failed", grid=grid, failures=failures)
    best = min(usable, key=lambda run: (-(run.validation or 0.0), run.learning_rate, run.weight_decay))
    return Cell(key, "scored", best.held_out, best.key, grid, failures, solved_after(best))


def is_scored(run: RunRecord) -> bool:
    """Finished, with a held-out score and a validation score that are numbers."""
    numbers = (run.held_out, run.validation)
    return run.status == "finished" and all(value is not None and math.isfinite(value) for value in numbers)


def is_stand_in(run: RunRecord) -> bool:
    """Whether it is a copy of another rule's run, where the two are one function: it repeats nothing."""
    return run.key.endswith("=")


def name_cell(key: CellKey) -> str:
    """A cell in words, for a message."""
    rule, task, setting, seed = key
    return f"{rule} on {task}, {setting}, seed {seed}"


def _failure(run: RunRecord) -> str:
    point = f"learning rate {run.learning_rate:g}, weight decay {run.weight_decay:g}"
    return f"{run.status if run.status != 'finished' else 'finished without a score'} at {point}"


def _refuse_two_functions(hashes: dict[str, str], run: RunRecord) -> None:
    """One name must mean one function: runs of two rule files under a name cannot be averaged."""
    seen = hashes.setdefault(run.rule, run.rule_hash)
    if seen != run.rule_hash:
        raise JudgeError(
            f"The runs of {run.rule!r} come from two rule files ({seen[:12]} and {run.rule_hash[:12]}). "
            "Judge one of them at a time: keep the runs of one rule hash."
        )
