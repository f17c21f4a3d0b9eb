"""How well one preset's order of rules predicts another's: Kendall's rank correlation by task.

The interval is Fieller's (Fieller 1957, Biometrika 44): atanh(τ) has a variance of about 0.437 / (n - 4) for
n rules, a good approximation up to about 0.8. A perfect agreement counts as half a pair short of perfect, or
its interval would have no width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archer.figures import MINUS
from archer.ledger.records import TASKS, RunRecord

if TYPE_CHECKING:
    from archer.ledger.summary import ScoreRow

LEAST_RULES = 4
"""Below this many rules with both scores no number is given: three have only six orders."""

MEAN = "Mean"

PAIRS = (("quick", "full"), ("baseline", "full"), ("quick", "baseline"))
"""A cheaper preset and the one that it is to predict."""


@dataclass(frozen=True)
class Agreement:
    """Two presets on one task. rules: those with both scores; tau is None where they are too few, or tied."""

    first: str
    second: str
    task: str
    rules: tuple[str, ...]
    tau: float | None = None
    low: float | None = None
    high: float | None = None


def agreements(runs: Sequence[RunRecord], first: str, second: str) -> tuple[Agreement, ...]:
    """Every task and the mean. Only scores over all settings of a preset count."""
    tables = [
        {(row.rule, row.rule_hash): row for row in preset_scores(runs, name)} for name in (first, second)
    ]
    both = sorted(tables[0].keys() & tables[1].keys())
    found = []
    for task in (*TASKS, MEAN):
        pairs = {rule: tuple(_score(table[rule], task) for table in tables) for rule in both}
        known = {rule[0]: pair for rule, pair in pairs.items() if None not in pair}
        found.append(agreement(first, second, task, known))  # type: ignore[arg-type]
    return tuple(found)


def preset_scores(runs: Iterable[RunRecord], preset: str) -> tuple[ScoreRow, ...]:
    """Scores of a preset's rules; a rule that lacks a setting of the preset has no score on that task."""
    from archer.ledger import score_table
    from archer.mad.presets import PRESETS

    known = PRESETS.get(preset)
    planned = None
    if known is not None:
        planned = {task: [s.name for s in known.settings if s.task == task] for task in TASKS}
    return score_table([run for run in runs if run.preset == preset], preset, settings=planned)


def _score(row: ScoreRow, task: str) -> float | None:
    return row.mean if task == MEAN else row.scores[task]


def agreement(first: str, second: str, task: str, known: Mapping[str, tuple[float, float]]) -> Agreement:
    """Of two lists of scores. known: each rule's score in the first and in the second."""
    rules = tuple(known)
    tau = kendall([pair[0] for pair in known.values()], [pair[1] for pair in known.values()])
    if len(rules) < LEAST_RULES or tau is None:
        return Agreement(first, second, task, rules)
    return Agreement(first, second, task, rules, tau, *kendall_interval(tau, len(rules)))


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """τ-b, which allows for ties; None where one side has a single value."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)  # type: ignore[attr-defined]


def kendall_interval(tau: float, number: int) -> tuple[float, float]:
    """95% interval of τ from so many rules; from four rules nothing follows."""
    if number <= LEAST_RULES:
        return -1.0, 1.0
    nearly = 1 - 1 / (number * (number - 1) / 2)
    middle, error = math.atanh(max(-nearly, min(nearly, tau))), 1.96 * math.sqrt(0.437 / (number - 4))
    return min(tau, math.tanh(middle - error)), max(tau, math.tanh(middle + error))


def in_words(found: Agreement) -> str:
    """One cell: τ with its interval and the number of rules, or why there is none."""
    number = len(found.rules)
    if number < LEAST_RULES:
        return f"{number} rule{'s' * (number != 1)}: too few"
    if found.tau is None or found.low is None or found.high is None:
        return f"{number} rules, all tied"
    return f"{found.tau:+.2f} [{found.low:+.2f}, {found.high:+.2f}], {number} rules".replace("-", MINUS)
