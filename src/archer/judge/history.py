"""The tables of earlier trials: what can be concluded from them, what cannot, where the reference is ahead.

A table has one number per model and task: nothing was repeated on purpose. But models that compute the same
function on a task repeated each other by accident, and their spread is noise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from archer.errors import unknown
from archer.judge import statistics
from archer.judge.errors import JudgeError
from archer.judge.noise import NoiseFloor, history_noise_floor, shipped_variance
from archer.ledger.history import HistoryTable
from archer.ledger.records import TASKS
from archer.mad.settings import SETTINGS as MAD_SETTINGS

BASELINE = "delta_net_4layer"
REFERENCE = "gated_delta_net_4layer"

SETTINGS: Mapping[str, int] = Counter(setting.task for setting in MAD_SETTINGS)
"""Over how many settings a history score is the mean (the full protocol of mad-lab)."""

CONTRADICTED = 1e-3
"""Models called one function that spread this improbably more than elsewhere are not one function there."""

SameFunction = Callable[[str, str], bool | None]
"""(model, task) -> whether it is the baseline's function in every setting of the task; None: unknown."""

Conclusion = Literal["one function", "beyond noise", "within noise", "no noise estimate"]


@dataclass(frozen=True)
class HistoryDifference:
    """One number of a table against its baseline.

    p_adjusted: Holm over all differences of the table that can be tested. noise_below: where the noise is not
    known, the standard deviation of a score below which this would be a difference.
    """

    table: str
    model: str
    task: str
    score: float
    baseline: float
    difference: float
    conclusion: Conclusion
    p_value: float | None = None
    p_adjusted: float | None = None
    noise_below: float | None = None


@dataclass(frozen=True)
class Conflict:
    """One model with different numbers in two tables: they were trained differently, or hold two runs."""

    model: str
    task: str
    tables: tuple[str, str]
    scores: tuple[float, float]


@dataclass(frozen=True)
class Rejudged:
    """What the tables support.

    differences: every number against its table's baseline. noise: per group of tables (by the name of its
    first), the floor of each task that has one. groups: tables whose numbers may stand side by side.
    conflicts: why two tables may not. contradicted: (first table of the group, task) where models that should
    be one function plainly are not: the group was trained in a way that the claim does not hold for.
    """

    differences: tuple[HistoryDifference, ...]
    noise: Mapping[str, Mapping[str, NoiseFloor]]
    groups: tuple[tuple[str, ...], ...]
    conflicts: tuple[Conflict, ...]
    contradicted: tuple[tuple[str, str], ...]


def rejudge_history(
    tables: Sequence[HistoryTable],
    same_function: SameFunction,
    *,
    baseline: str = BASELINE,
    noise: Mapping[str, NoiseFloor] | None = None,
    level: float = 0.95,
) -> Rejudged:
    """Judge every number of the tables against its own table's baseline.

    noise: floors from elsewhere for tasks in which no models are one function (Archer's own measured ones
    when left out, never provisional ones). Noise is taken to be alike for all rules and normal. Raises
    UserError for a table without the baseline, or two tables of one name.
    """
    _require_tables(tables, baseline)
    conflicts = _conflicts(tables)
    groups = _groups(tables, conflicts)
    known = shipped_variance() if noise is None else noise
    general = {task: floor for task, floor in known.items() if not floor.provisional}
    own = {group[0]: _own_noise(tables, group, same_function, baseline) for group in groups}
    contradicted = _contradicted(own)
    floors = {
        name: {task: floor for task, floor in found.items() if (name, task) not in contradicted}
        for name, found in own.items()
    }
    differences: list[HistoryDifference] = []
    for table in tables:
        first = next(group[0] for group in groups if table.name in group)
        trusted = _trusted(same_function, {task for name, task in contradicted if name == first})
        available = {**general, **floors[first]}
        differences += _judge_table(table, baseline, trusted, available, 1 - level)
    return Rejudged(tuple(differences), floors, groups, conflicts, contradicted)


def _require_tables(tables: Sequence[HistoryTable], baseline: str) -> None:
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        raise JudgeError(f"Two tables have one name; got {', '.join(names)}.")
    for table in tables:
        models = [row.model for row in table.rows]
        if baseline not in models:
            raise unknown(f"model in table {table.name}", baseline, models)


def _conflicts(tables: Sequence[HistoryTable]) -> tuple[Conflict, ...]:
    found = []
    for index, first in enumerate(tables):
        ours = {row.model: row.scores for row in first.rows}
        for second in tables[index + 1 :]:
            for row in second.rows:
                for task, score in row.scores.items():
                    before = ours.get(row.model, {}).get(task)
                    if before is not None and before != score:
                        found.append(Conflict(row.model, task, (first.name, second.name), (before, score)))
    return tuple(found)


def _groups(tables: Sequence[HistoryTable], conflicts: Iterable[Conflict]) -> tuple[tuple[str, ...], ...]:
    """Tables joined where they share a model and agree on every shared number with all of the group."""
    apart = {frozenset(conflict.tables) for conflict in conflicts}
    models = {table.name: {row.model for row in table.rows} for table in tables}
    groups: list[list[str]] = []
    for table in tables:
        for group in groups:
            shares = any(models[table.name] & models[other] for other in group)
            if shares and not any(frozenset((table.name, other)) in apart for other in group):
                group.append(table.name)
                break
        else:
            groups.append([table.name])
    return tuple(tuple(group) for group in groups)


def _own_noise(
    tables: Sequence[HistoryTable], group: Sequence[str], same_function: SameFunction, baseline: str
) -> dict[str, NoiseFloor]:
    """Floors of a group from all its models that are the baseline's function on a task, each counted once."""
    rows = {row.model: row for table in tables if table.name in group for row in table.rows}
    first = next(table for table in tables if table.name == group[0])
    joined = replace(first, rows=tuple(rows.values()))
    equal = {
        task: [model for model in rows if model == baseline or same_function(model, task)] for task in TASKS
    }
    return history_noise_floor(joined, equal, settings=SETTINGS)


def _contradicted(own: Mapping[str, Mapping[str, NoiseFloor]]) -> tuple[tuple[str, str], ...]:
    """Groups in which "one function" spreads far more than in the quietest other group (an F test)."""
    found = []
    for name, floors in own.items():
        for task, floor in floors.items():
            others = [other[task] for key, other in own.items() if key != name and task in other]
            quiet = min(others, key=lambda other: other.sd, default=None)
            if quiet is None:
                continue
            ratio = (floor.sd / quiet.sd) ** 2
            if stats.f.sf(ratio, floor.degrees_of_freedom, quiet.degrees_of_freedom) < CONTRADICTED:
                found.append((name, task))
    return tuple(found)


def _trusted(same_function: SameFunction, refuted: set[str]) -> SameFunction:
    return lambda model, task: None if task in refuted else same_function(model, task)


def _judge_table(
    table: HistoryTable,
    baseline: str,
    same_function: SameFunction,
    noise: Mapping[str, NoiseFloor],
    alpha: float,
) -> list[HistoryDifference]:
    base = next(row.scores for row in table.rows if row.model == baseline)
    found = [
        _difference(table.name, row.model, task, score, base[task], same_function, noise)
        for row in table.rows
        if row.model != baseline
        for task, score in row.scores.items()
        if task in base
    ]
    adjusted = iter(statistics.holm([one.p_value for one in found if one.p_value is not None]))
    open_ones = sum(one.conclusion != "one function" for one in found)
    return [
        _conclude(one, next(adjusted) if one.p_value is not None else None, open_ones, alpha) for one in found
    ]


def _difference(
    table: str,
    model: str,
    task: str,
    score: float,
    base: float,
    same_function: SameFunction,
    noise: Mapping[str, NoiseFloor],
) -> HistoryDifference:
    found = HistoryDifference(table, model, task, score, base, score - base, "no noise estimate")
    if same_function(model, task):
        return replace(found, conclusion="one function")
    floor = noise.get(task)
    if floor is None:
        return found
    statistic = abs(score - base) / (math.sqrt(2) * floor.score_sd(SETTINGS[task]))
    return replace(found, p_value=float(2 * stats.t.sf(statistic, floor.degrees_of_freedom)))


def _conclude(
    one: HistoryDifference, p_adjusted: float | None, family: int, alpha: float
) -> HistoryDifference:
    if one.conclusion == "one function":
        return one
    if p_adjusted is None:
        bound = float(stats.norm.isf(alpha / family / 2))
        return replace(one, noise_below=abs(one.difference) / (math.sqrt(2) * bound))
    word: Conclusion = "beyond noise" if p_adjusted <= alpha else "within noise"
    return replace(one, p_adjusted=float(p_adjusted), conclusion=word)


@dataclass(frozen=True)
class TaskStanding:
    """One task: the reference against the baseline and the best trial. gap: reference minus baseline."""

    task: str
    reference: float
    baseline: float
    gap: float
    best_model: str
    best_score: float
    reference_lead: float
    noise_sd: float | None

    @property
    def reference_ahead(self) -> bool:
        """Whether no trial of the table scores more than the reference."""
        return self.reference_lead >= 0


@dataclass(frozen=True)
class TrialSummary:
    """One past trial against the baseline: its biggest gain and loss, as (task, difference), what it beats.

    rule: what the model's name resolves to, or None. gain or loss is None where no task went that way; tasks
    in which the trial is the baseline's function (`one_function`) can be neither. beyond_noise: tasks of
    which the difference exceeds the noise floor, where one is known.
    """

    model: str
    rule: str | None
    mean: float
    mean_difference: float
    gain: tuple[str, float] | None
    loss: tuple[str, float] | None
    ahead_of_reference: tuple[str, ...]
    beyond_noise: tuple[str, ...]
    one_function: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    """What a table says to whoever proposes next.

    ranking: (model, mean score), best first. untried: known rules that no model of the table resolves to.
    unresolved: models whose names mean no known rule. tasks_behind: tasks in which the reference leads the
    baseline, widest gap first: where there is something to gain.
    """

    table: str
    reference: str
    baseline: str
    standings: tuple[TaskStanding, ...]
    trials: tuple[TrialSummary, ...]
    ranking: tuple[tuple[str, float], ...]
    tasks_behind: tuple[str, ...]
    untried: tuple[str, ...]
    unresolved: tuple[str, ...]


def analyse(
    table: HistoryTable,
    reference: str = REFERENCE,
    baseline: str = BASELINE,
    *,
    known_rules: Iterable[str] = (),
    resolve: Callable[[str], str | None] = lambda model: None,
    same_function: SameFunction = lambda model, task: None,
    noise: Mapping[str, NoiseFloor] | None = None,
) -> Analysis:
    """Where the reference is ahead, what every past trial won and lost, and what was never tried.

    resolve: history name -> rule name or None. Raises JudgeError if the reference or the baseline is missing.
    """
    scores = {row.model: row.scores for row in table.rows}
    for model in (reference, baseline):
        if model not in scores:
            raise unknown(f"model in table {table.name}", model, scores)
    judged = rejudge_history([table], same_function, baseline=baseline, noise=noise)
    floors = judged.noise[table.name]
    found: dict[tuple[str, str], Conclusion] = {
        (one.model, one.task): one.conclusion for one in judged.differences
    }
    trials = [model for model in scores if model not in (reference, baseline)]
    resolved = {model: resolve(model) for model in scores}
    standings = tuple(_standing(task, scores, reference, baseline, trials, floors) for task in TASKS)
    behind = sorted((one for one in standings if one.gap > 0), key=lambda one: (-one.gap, one.task))
    ranking = sorted(
        ((model, _mean(found)) for model, found in scores.items()), key=lambda one: (-one[1], one[0])
    )
    return Analysis(
        table.name,
        reference,
        baseline,
        standings,
        tuple(_trial(model, resolved[model], scores, reference, baseline, found) for model in trials),
        tuple(ranking),
        tuple(one.task for one in behind),
        tuple(sorted(set(known_rules) - {rule for rule in resolved.values() if rule})),
        tuple(model for model in scores if resolved[model] is None),
    )


def _mean(scores: Mapping[str, float]) -> float:
    return float(np.mean([scores[task] for task in TASKS]))


def _standing(
    task: str,
    scores: Mapping[str, Mapping[str, float]],
    reference: str,
    baseline: str,
    trials: Sequence[str],
    floors: Mapping[str, NoiseFloor],
) -> TaskStanding:
    ours, theirs = scores[reference][task], scores[baseline][task]
    best = max((*trials, baseline), key=lambda model: scores[model][task])
    floor = floors.get(task)
    score = scores[best][task]
    return TaskStanding(
        task, ours, theirs, ours - theirs, best, score, ours - score, floor.sd if floor else None
    )


def _trial(
    model: str,
    rule: str | None,
    scores: Mapping[str, Mapping[str, float]],
    reference: str,
    baseline: str,
    conclusions: Mapping[tuple[str, str], Conclusion],
) -> TrialSummary:
    changes = {task: scores[model][task] - scores[baseline][task] for task in TASKS}
    open_ones = [one for one in changes.items() if conclusions[model, one[0]] != "one function"]
    gain = max(open_ones, key=lambda one: one[1], default=("", 0.0))
    loss = min(open_ones, key=lambda one: one[1], default=("", 0.0))
    return TrialSummary(
        model,
        rule,
        _mean(scores[model]),
        _mean(scores[model]) - _mean(scores[baseline]),
        gain if gain[1] > 0 else None,
        loss if loss[1] < 0 else None,
        tuple(task for task in TASKS if scores[model][task] > scores[reference][task]),
        tuple(task for task in TASKS if conclusions[model, task] == "beyond noise"),
        tuple(task for task in TASKS if conclusions[model, task] == "one function"),
    )
