"""From ledger and history to a `Context`: plain conversions, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from archer.research.researcher import Context, Measurement
from archer.research.rule_text import read_rule

if TYPE_CHECKING:
    from archer.ledger.history import HistoryTable
    from archer.ledger.summary import ScoreRow

PREFIX = "delta_net_4layer_"


def history_measurements(
    tables: Iterable[HistoryTable], sources: Mapping[str, str]
) -> tuple[Measurement, ...]:
    """Every number of the history tables whose model is a known rule. A number that stands in two tables of
    one protocol is one measurement."""
    rules = [read_rule(source, name) for name, source in sources.items()]
    names = {alias: rule.name for rule in rules for alias in (rule.name, *rule.history)}
    found: dict[tuple[object, ...], Measurement] = {}
    for table in tables:
        for row in table.rows:
            rule = names.get(row.model) or names.get(row.model.removeprefix(PREFIX))
            for task, score in row.scores.items() if rule else ():
                found.setdefault((rule, task, score), Measurement(rule or "", task, table.name, score))
    return tuple(found.values())


def measurements(rows: Iterable[ScoreRow], preset: str) -> tuple[Measurement, ...]:
    """What the ledger's score table says. Tasks without a score are kept, as None."""
    return tuple(
        Measurement(row.rule, task, preset, score, seeds=max(row.seeds, 1))
        for row in rows
        for task, score in row.scores.items()
    )


def protocols(context: Context) -> dict[str, str]:
    """Source to protocol: tables whose base scores agree to the digit were trained alike and count as one."""
    first: dict[tuple[object, ...], str] = {}
    result = {}
    for source in dict.fromkeys(m.source for m in (*context.history, *context.measured)):
        base = tuple(
            sorted(
                (m.task, m.score)
                for m in (*context.history, *context.measured)
                if m.source == source and m.rule == context.base and m.score is not None
            )
        )
        result[source] = first.setdefault(base, source) if base else source
    return result
