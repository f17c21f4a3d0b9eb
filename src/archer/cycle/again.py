"""A bench judged again from its runs: the same looks at the same seeds, by the same functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archer.cycle.measuring import FRESH, Company, confirm_win, settle
from archer.cycle.training import TimeIsUp
from archer.ledger.records import Comparison, ConfirmationRecord, CycleRecord, RunRecord
from archer.rules import REFERENCE

if TYPE_CHECKING:
    from archer.cycle.laboratory import Laboratory
    from archer.judge import Pair


@dataclass(frozen=True)
class Trained(Company):
    """Rules of which nothing is trained any more: all their runs are there."""

    runs: tuple[RunRecord, ...] = ()

    def train(self, seeds: Iterable[int], wanted: Mapping[str, Sequence[str]]) -> list[RunRecord]:
        """The runs of these rules with these seeds on their tasks. Raises TimeIsUp where a rule has none."""
        chosen = frozenset(seeds)
        found = [run for run in self.runs if run.seed in chosen and run.task in wanted.get(run.rule, ())]
        if {run.rule for run in found} < {*wanted}:
            raise TimeIsUp(tuple(found), len(wanted))
        return found


def bench_again(
    lab: Laboratory, cycle: CycleRecord, runs: Sequence[RunRecord]
) -> tuple[tuple[Comparison, ...], tuple[ConfirmationRecord, ...]]:
    """What a bench concluded. lab: with the cycle's preset and judging; runs: the cycle's own."""
    from archer.cycle.reach import Reach
    from archer.judge import Pair
    from archer.judge.verdicts import confirmed

    reach, reference = Reach(lab.ledger, runs), reference_of(cycle)
    names = [name for name in cycle.rules if name in reach.hashes]
    if reference not in names:
        return (), ()
    pairs = [Pair(name, reference, reach.same(name, reference)) for name in names if name != reference]
    here = Trained(lab, dict.fromkeys(names), None, {}, (*runs, *_fresh(lab, cycle, reach.hashes)))  # type: ignore[arg-type]
    try:
        records, found = settle(here, pairs, range(_seeds(lab, runs)), cycle)
    except TimeIsUp:  # a bench that a limit of time ended: what it had to go on with is not there
        return (), ()
    wins = [_confirmation(here, cycle, *pair, records) for pair in zip(pairs, found, strict=True)]
    return tuple(map(confirmed, found, wins)), tuple(win for win in wins if win)


def reference_of(cycle: CycleRecord) -> str:
    """The rule that the others were compared with; older cycles do not say, and it was trained last."""
    usual = REFERENCE if REFERENCE in cycle.rules else next(reversed(cycle.rules), REFERENCE)
    return cycle.settings.get("reference", usual)


def _seeds(lab: Laboratory, runs: Sequence[RunRecord]) -> int:
    """All seeds that were trained at once, or the most that could be added."""
    return lab.judging.until_decided or max(run.seed for run in runs) + 1


def _fresh(lab: Laboratory, cycle: CycleRecord, hashes: Mapping[str, str]) -> list[RunRecord]:
    """The runs of these very rules with the cycle's fresh seeds."""
    if not cycle.id.isdecimal():
        return []
    seeds = range(FRESH * int(cycle.id), FRESH * (int(cycle.id) + 1))
    runs = lab.ledger.runs(preset=cycle.preset)
    return [run for run in runs if run.seed in seeds and hashes.get(run.rule) == run.rule_hash]


def _confirmation(
    here: Trained, cycle: CycleRecord, pair: Pair, won: Comparison, records: Sequence[RunRecord]
) -> ConfirmationRecord | None:
    try:
        return confirm_win(here, cycle, pair, won, records)
    except TimeIsUp:  # its fresh seeds were never trained
        return None
