"""What tables of scores say about past trials, in numbers alone.

A table's rows are only ever compared with rows of the same table: tables may follow different protocols.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from archer.ledger.history import HistoryTable
from archer.ledger.records import TASKS

PREFIX = "delta_net_4layer"
"""How the history tables name the plain delta rule, and how the names of its variants begin."""


@dataclass(frozen=True)
class Change:
    """A difference on one task."""

    task: str
    difference: float


@dataclass(frozen=True)
class Trial:
    """One model of a table against that table's plain delta rule and reference.

    gain, loss: its biggest difference upwards and downwards against the plain delta rule; None where there is
    none. ahead: the tasks on which it scores above the reference.
    """

    table: str
    model: str
    scores: Mapping[str, float | None]
    gain: Change | None
    loss: Change | None
    ahead: tuple[str, ...]
    mean_difference: float | None


def short_name(model: str, aliases: Mapping[str, str]) -> str:
    """The rule that a table means; where none is known, the table's own name without the common beginning."""
    if model in aliases:
        return aliases[model]
    return "delta_net" if model == PREFIX else model.removeprefix(f"{PREFIX}_")


def trials(table: HistoryTable, aliases: Mapping[str, str], base: str, reference: str) -> tuple[Trial, ...]:
    """Every model of a table but the base and the reference; empty where the table has no base."""
    named = {short_name(row.model, aliases): row.scores for row in table.rows}
    if base not in named:
        return ()
    return tuple(
        _trial(table.name, name, scores, named[base], named.get(reference, {}))
        for name, scores in named.items()
        if name not in (base, reference)
    )


def without_repeats(found: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trials, those left out whose very numbers an earlier table has."""
    kept: dict[tuple[str, tuple[tuple[str, float | None], ...]], Trial] = {}
    for trial in found:
        kept.setdefault((trial.model, tuple(sorted(trial.scores.items()))), trial)
    return tuple(kept.values())


def _trial(
    table: str,
    model: str,
    scores: Mapping[str, float | None],
    base: Mapping[str, float | None],
    reference: Mapping[str, float | None],
) -> Trial:
    changes = _changes(scores, base)
    best = max(changes, key=lambda change: change.difference, default=None)
    worst = min(changes, key=lambda change: change.difference, default=None)
    return Trial(
        table=table,
        model=model,
        scores=scores,
        gain=best if best and best.difference > 0 else None,
        loss=worst if worst and worst.difference < 0 else None,
        ahead=tuple(change.task for change in _changes(scores, reference) if change.difference > 0),
        mean_difference=sum(change.difference for change in changes) / len(changes) if changes else None,
    )


def _changes(scores: Mapping[str, float | None], base: Mapping[str, float | None]) -> list[Change]:
    found = []
    for task in TASKS:
        mine, other = scores.get(task), base.get(task)
        if mine is not None and other is not None:
            found.append(Change(task, mine - other))
    return found
