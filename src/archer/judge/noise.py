"""How much a score moves when nothing changes: the noise floor of each task, and where it was learned.

Model of one cell (rule r, setting s, seed t; docs/design/statistics.md):
    score = level(r, s) + a(s, t) + b(r, t) + e(r, s, t)
a (`seed_sd`) is common to all rules on the same data and cancels in a paired difference; b (`shared_sd`) is
common to all settings of a task for one rule and seed; e (`cell_sd`) is what is left.

Noise shrinks towards the ends of the scale: rules at 0.9995 move by 0.0004, rules at 0.96 by 0.013. All parts
are taken to be in proportion to p (1 - p), p being the level: noise of one size on the scale of log odds.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from scipy import special

from archer.judge.cells import Cells, is_stand_in
from archer.judge.errors import JudgeError
from archer.judge.statistics import RESOLUTION
from archer.ledger.history import HistoryTable
from archer.ledger.records import TASKS, RunRecord

HETEROGENEITY = 4.0
"""How unlike the noise of different rules is taken to be until enough of them were repeated: the variances
spread like those of samples with this many degrees of freedom."""

FEWEST_RULES = 4
"""Fewer repeated rules than this say nothing about how unlike their noise is."""


def swing(level: float) -> float:
    """p (1 - p) at a level: how far a score moves there when its log odds do; at least what can be told."""
    return max(level * (1 - level), RESOLUTION)


@dataclass(frozen=True)
class NoiseFloor:
    """The noise of one task.

    sd: of a task score (the mean over `settings` settings) when it is trained again with another seed.
    cell_sd, shared_sd, seed_sd: its parts, for one setting and seed (see the module). degrees_of_freedom:
    what cell_sd rests on. heterogeneity: how alike the noise of different rules is, in degrees of freedom
    (None: not measured). provisional: an upper bound taken from rules that differ, not from repeats. swing:
    the p (1 - p) at which the parts are given (None: not known; then they are taken as they are everywhere).
    """

    task: str
    sd: float
    degrees_of_freedom: float
    source: str
    settings: int = 1
    cell_sd: float = 0.0
    shared_sd: float = 0.0
    seed_sd: float = 0.0
    heterogeneity: float | None = None
    provisional: bool = False
    swing: float | None = None

    def difference_variance(self, trained: int, settings: int, swings: Sequence[float] = ()) -> float:
        """Expected variance of one seed's paired difference of task scores of two rules.

        The mean is over `settings` settings, `trained` of which differ at all (the rest are equal by reach).
        swings: of the two rules in each of these; those of the rules that were measured, if left out.
        """
        if settings == 0:
            return 0.0
        sizes = np.asarray(swings) / self.swing if swings and self.swing else np.ones(trained)
        one_rule = self.cell_sd**2 * np.sum(sizes**2) + (self.shared_sd * np.sum(sizes)) ** 2
        return 2 * float(one_rule) / settings**2

    def score_sd(self, settings: int) -> float:
        """Of a task score over so many settings, when it is trained again with another seed."""
        return math.sqrt((self.cell_sd**2 + self.seed_sd**2) / settings + self.shared_sd**2)

    def weight(self) -> float:
        """How many observations of a new rule's variance this is worth.

        Its own uncertainty and the unlikeness of rules add up, as reciprocals of degrees of freedom do
        (the relative variance of a product of two scaled chi-squares); simulation agrees.
        """
        if self.provisional:
            return 1.0
        own, unlike = self.degrees_of_freedom, self.heterogeneity or HETEROGENEITY
        return own * unlike / (own + unlike)


def noise_floor(
    runs: Sequence[RunRecord],
    *,
    preset: str | None = None,
    shipped: bool = True,
    exclude: frozenset[str] = frozenset(),
) -> dict[str, NoiseFloor]:
    """The noise of each task, from repeated seeds.

    Rules that are one function repeat nothing: with one seed they differ by rounding, a fifth of it or less.
    preset: the runs to use; may be left out when all are of one preset. exclude: rules that are being judged
    and must not vouch for their own noise.
    shipped: where fewer than three degrees of freedom were measured, use Archer's own file variance.json.
    Tasks of which nothing is known are left out.
    """
    measured = estimate_variance(runs, preset=preset, exclude=exclude)
    if not shipped:
        return measured
    known = shipped_variance()
    return {
        task: _prefer(measured.get(task), known.get(task))
        for task in TASKS
        if task in measured or task in known
    }


def estimate_variance(
    runs: Sequence[RunRecord],
    *,
    preset: str | None = None,
    exclude: frozenset[str] = frozenset(),
    source: str | None = None,
) -> dict[str, NoiseFloor]:
    """Variance components of each task from runs alone; only tasks in which something was repeated.

    Copies that stand in for runs are left out. This is how variance.json is made again from real runs:
    `write_variance(estimate_variance(runs), path)`.
    """
    presets = {run.preset for run in runs} if preset is None else {preset}
    if len(presets) != 1:
        if not runs:
            return {}
        raise JudgeError(
            f"Runs of several presets ({', '.join(sorted(presets))}) have different noise: name one."
        )
    cells = Cells([run for run in runs if not is_stand_in(run)], presets.pop())
    found = {task: _estimate_task(cells, task, exclude, source) for task in TASKS}
    return {task: floor for task, floor in found.items() if floor is not None}


def _estimate_task(cells: Cells, task: str, exclude: frozenset[str], source: str | None) -> NoiseFloor | None:
    rules = [rule for rule in cells.rules if rule not in exclude]
    settings = cells.settings(task)
    found = [_fit(_scores(cells, rules, task, setting)) for setting in settings]
    fits = [fit for fit in found if fit is not None]
    spreads = [fit.spread for fit in fits]
    freedom = sum(one.freedom for one in spreads)
    if freedom <= 0:
        return None
    size = math.sqrt(sum(one.swings for one in spreads) / freedom)
    least = (RESOLUTION / size) ** 2
    cell = max(sum(one.squares for one in spreads) / freedom, least)
    shared = _shared_variance(cells, rules, task, settings, cell)
    seed = float(np.mean([fit.seed_variance for fit in fits]))
    repeated = {rule for fit in fits for rule in fit.per_rule}
    text = source or f"repeated seeds of {len(repeated)} rules under {cells.preset}"
    parts = (size * math.sqrt(part) for part in ((cell + seed) / len(settings) + shared, cell, shared, seed))
    sd, cell_sd, shared_sd, seed_sd = parts
    return NoiseFloor(
        task, sd, freedom, text, len(settings), cell_sd, shared_sd, seed_sd, _heterogeneity(fits, least),
        swing=size,
    )  # fmt: skip


def _scores(cells: Cells, rules: Sequence[str], task: str, setting: str) -> list[tuple[str, int, float]]:
    """(rule, seed, score) of every scored cell of a setting. Of rules whose scores are equal to the last bit
    only the first counts: they are one computation made twice."""
    found: dict[tuple[tuple[int, float], ...], str] = {}
    for rule in rules:
        seeds = sorted(cells.seeds(rule, task))
        scores = ((seed, cells.score(rule, task, setting, seed)) for seed in seeds)
        found.setdefault(tuple((seed, score) for seed, score in scores if score is not None), rule)
    return [(rule, seed, score) for scores, rule in found.items() for seed, score in scores]


@dataclass(frozen=True)
class _Spread:
    """A sum of squares in units of the swing, its degrees of freedom, and the squared swings over these."""

    squares: float = 0.0
    freedom: float = 0.0
    swings: float = 0.0


@dataclass(frozen=True)
class _Fit:
    """Residuals of `move = rule + seed` in one setting, in all and per rule (squares, degrees of freedom)."""

    spread: _Spread
    seed_variance: float
    per_rule: dict[str, tuple[float, float]]


def _levels(scores: Sequence[tuple[str, int, float]]) -> dict[str, float]:
    """The mean of each rule over its seeds."""
    return {rule: float(np.mean([row[2] for row in scores if row[0] == rule])) for rule, _, _ in scores}


def _moves(scores: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """The scores as distances from their rule's level, in units of its swing."""
    levels = _levels(scores)
    return [(rule, seed, (score - levels[rule]) / swing(levels[rule])) for rule, seed, score in scores]


def _fit(scores: Sequence[tuple[str, int, float]]) -> _Fit | None:
    """Residuals of the scores' moves, and the swings of the rules that they belong to."""
    levels, residuals = _levels(scores), _residuals(_moves(scores))
    if residuals is None:
        return None
    per_rule, seed_variance = residuals
    freedom = sum(freedom for _, freedom in per_rule.values())
    swings = sum(freedom * swing(levels[rule]) ** 2 for rule, (_, freedom) in per_rule.items())
    return _Fit(_Spread(sum(s for s, _ in per_rule.values()), freedom, swings), seed_variance, per_rule)


def _residuals(
    moves: Sequence[tuple[str, int, float]],
) -> tuple[dict[str, tuple[float, float]], float] | None:
    """Least squares with one level per rule and one per seed: squares and degrees of freedom of each rule,
    and the variance of seeds. Rules with a single seed say nothing."""
    counts: dict[str, int] = defaultdict(int)
    for rule, _, _ in moves:
        counts[rule] += 1
    rows = [row for row in moves if counts[row[0]] > 1]
    if not rows:
        return None
    rules, seeds = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    paired = len(rules) > 1
    columns = [[row[0] == rule for row in rows] for rule in rules]
    columns += [[row[1] == seed for row in rows] for seed in seeds[1:]] if paired else []
    design = np.asarray(columns, dtype=float).T
    values = np.asarray([row[2] for row in rows])
    hat = design @ np.linalg.pinv(design)
    residual, leverage = values - hat @ values, 1 - np.diag(hat)
    freedom = float(leverage.sum())
    if freedom < 0.5:
        return None
    own = {rule: np.asarray([row[0] == rule for row in rows]) for rule in rules}
    per_rule = {
        rule: (float(np.sum(residual[here] ** 2)), float(leverage[here].sum())) for rule, here in own.items()
    }
    seed_variance = _seed_variance(rows, rules, float(residual @ residual) / freedom) if paired else 0.0
    return per_rule, seed_variance


def _seed_variance(scores: Sequence[tuple[str, int, float]], rules: Sequence[str], residual: float) -> float:
    """What seeds share over rules: the variance over seeds within a rule, less the residual."""
    within = [float(np.var([row[2] for row in scores if row[0] == rule], ddof=1)) for rule in rules]
    return max(0.0, float(np.mean(within)) - residual)


def _shared_variance(
    cells: Cells, rules: Sequence[str], task: str, settings: Sequence[str], cell: float
) -> float:
    """What one rule and seed share over settings: the residual of task scores beyond the cells' own."""
    if len(settings) < 2:
        return 0.0
    by_setting = [
        {row[:2]: row[2] for row in _moves(_scores(cells, rules, task, setting))} for setting in settings
    ]
    complete = set.intersection(*(set(found) for found in by_setting))
    rows = [
        (rule, seed, float(np.mean([found[rule, seed] for found in by_setting]))) for rule, seed in complete
    ]
    found = _residuals(sorted(rows))
    if found is None:
        return 0.0
    squares, freedom = (sum(column) for column in zip(*found[0].values(), strict=True))
    return max(0.0, squares / freedom - cell / len(settings))


def _heterogeneity(fits: Sequence[_Fit], least: float) -> float | None:
    """How alike the rules' variances are, in degrees of freedom from 1 to 100 (Smyth 2004, section 6.2)."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for fit in fits:
        for rule, (squares, freedom) in fit.per_rule.items():
            totals[rule][0] += squares
            totals[rule][1] += freedom
    usable = [
        (max(squares / freedom, least), freedom) for squares, freedom in totals.values() if freedom >= 1
    ]
    if len(usable) < FEWEST_RULES:
        return None
    variances, freedoms = (np.asarray(column) for column in zip(*usable, strict=True))
    centred = np.log(variances) - special.digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = float(np.var(centred, ddof=1) - np.mean(special.polygamma(1, freedoms / 2)))
    return 100.0 if excess <= 0 else float(np.clip(2 * _inverse_trigamma(excess), 1.0, 100.0))


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, by Newton's method on 1 / trigamma, which is nearly linear."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def _prefer(measured: NoiseFloor | None, known: NoiseFloor | None) -> NoiseFloor:
    """Measured noise once it rests on three degrees of freedom; Archer's own file before that.

    A provisional floor gives way to any repeat at all.
    """
    if measured is not None and (known is None or known.provisional or measured.degrees_of_freedom >= 3):
        return measured
    if known is None:
        raise AssertionError("one of the two exists")
    return known


def provisional_floors(
    table: HistoryTable, models: Sequence[str], settings: Mapping[str, int]
) -> dict[str, NoiseFloor]:
    """An upper bound where nothing was repeated: the robust spread (median absolute deviation) over models.

    The models really differ, so this is no noise estimate: it is marked provisional, weighs as one
    observation, and is taken not to average out over settings.
    """
    scores = {row.model: row.scores for row in table.rows}
    floors = {}
    for task in TASKS:
        values = [scores[model].get(task) for model in models if model in scores]
        numbers = np.asarray([value for value in values if value is not None and math.isfinite(value)])
        if numbers.size < FEWEST_RULES:
            continue
        sd = max(1.4826 * float(np.median(np.abs(numbers - np.median(numbers)))), RESOLUTION)
        source = f"upper bound: spread of {numbers.size} models of {table.name}, real differences included"
        floors[task] = NoiseFloor(task, sd, 1.0, source, settings.get(task, 1), 0.0, sd, provisional=True)
    return floors


def history_noise_floor(
    table: HistoryTable, groups: Mapping[str, Sequence[str]], *, settings: Mapping[str, int] | None = None
) -> dict[str, NoiseFloor]:
    """Noise of a history table's task scores, from models that are one function on a task.

    groups: task -> names of models that compute the same there. settings: task -> how many settings the
    score is the mean of (1 where not given); the noise of one setting is sqrt of it larger.
    """
    scores = {row.model: row.scores for row in table.rows}
    floors = {}
    for task, models in groups.items():
        values = [scores[model].get(task) for model in models if model in scores]
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        if len(numbers) < 2:
            continue
        sd, count = max(float(np.std(numbers, ddof=1)), RESOLUTION), (settings or {}).get(task, 1)
        source = f"{len(numbers)} models of {table.name} that are one function on {task}"
        floors[task] = NoiseFloor(task, sd, len(numbers) - 1, source, count, sd * math.sqrt(count))
    return floors


@cache
def _shipped() -> dict[str, NoiseFloor]:
    text = resources.files("archer.judge").joinpath("variance.json").read_text(encoding="utf-8")
    return {task: NoiseFloor(task=task, **values) for task, values in json.loads(text)["tasks"].items()}


def shipped_variance() -> dict[str, NoiseFloor]:
    """Archer's own variance components, with their sources (variance.json beside this file)."""
    return dict(_shipped())


def write_variance(floors: Mapping[str, NoiseFloor], path: Any, note: str = "") -> None:
    """Write components in the form of variance.json (`path`: anything with write_text)."""
    tasks = {}
    for task in TASKS:
        if task in floors:
            values = {key: value for key, value in vars(replace(floors[task])).items() if key != "task"}
            tasks[task] = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
    path.write_text(json.dumps({"note": note, "tasks": tasks}, indent=2) + "\n", encoding="utf-8")
