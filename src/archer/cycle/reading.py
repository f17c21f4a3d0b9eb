"""Runs that are there already, of a project or of a table, and what they say of two rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from archer.judge.ceiling import MARGIN

if TYPE_CHECKING:
    from archer.cycle.reach import Reach
    from archer.ledger import Ledger
    from archer.ledger.records import Comparison, RunRecord


@contextmanager
def table_ledger(table: Path) -> Iterator[Ledger]:
    """A ledger that holds the runs of a CSV table, and then goes. Raises UserError where it cannot be read.

    A table does not say how its runs were trained: the settings and the chunk of its presets are taken, so
    that it is known where built-in rules are one function.
    """
    from archer.ledger import Ledger, read_runs

    with TemporaryDirectory() as folder, Ledger.in_folder(folder) as ledger:
        ledger.add_runs([_with_plan(run) for run in read_runs(table)])
        yield ledger


def _with_plan(run: RunRecord) -> RunRecord:
    """The run with what its preset says of its training; as it is where that is not known."""
    from archer.mad.presets import PRESETS
    from archer.mad.settings import SETTINGS

    preset = PRESETS.get(run.preset.partition("-")[0])
    known = {setting.name: setting for setting in (*SETTINGS, *(preset.settings if preset else ()))}
    if preset is None or run.setting not in known:
        return run
    recipe = {"chunk_size": preset.chunk_size, "epochs": preset.epochs}
    return replace(run, effective={"setting": asdict(known[run.setting]), "recipe": recipe})


def compare_known(
    reach: Reach, pairs: Sequence[tuple[str, str]], preset: str, margin: float = MARGIN
) -> tuple[Comparison, ...]:
    """Each pair of rules by the runs of `reach`, all of one preset; parents stand in where a rule is its
    parent, and where two rules are one function there is no difference."""
    from archer.judge import compare

    everything = (*reach.runs, *reach.stand_ins())
    return tuple(
        compare(everything, *pair, preset=preset, margin=margin, exact_settings=reach.same(*pair))
        for pair in pairs
    )
