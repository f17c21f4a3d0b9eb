"""Make src/archer/judge/variance.json again, or see what it would be by other runs.

    python benchmarks/variance.py                                        from the history: what is shipped
    python benchmarks/variance.py results/quick.csv --to variance.json   from runs where they repeat something

Where runs are silent, the history speaks. For each task the first of the presets full, baseline and quick
counts whose runs repeat enough. Prints where each task's figure comes from; the last line is JSON: the task
scores' standard deviations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from archer.errors import UserError, exit_plainly
from archer.judge.history import BASELINE, SETTINGS, rejudge_history
from archer.judge.noise import (
    NoiseFloor,
    estimate_variance,
    provisional_floors,
    write_variance,
)
from archer.judge.reach import history_same_function, one_function_in_one_chunk
from archer.ledger.history import builtin_history
from archer.ledger.records import TASKS, RunRecord
from archer.ledger.runs_csv import read_runs
from archer.rules import resolve_history_name

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src" / "archer" / "judge" / "variance.json"

PRESETS = ("full", "baseline", "quick")
"""Whose runs may say it, the protocol itself first."""

ENOUGH = 3
"""Degrees of freedom from which runs are believed, as in `archer.judge.noise.noise_floor`."""

NOTE = (
    "Variance components of scores on the six tasks; benchmarks/variance.py writes this file. "
    "docs/design/statistics.md explains the fields."
)


def from_history() -> dict[str, NoiseFloor]:
    """Repeats by accident where there are some; elsewhere the provisional upper bound."""
    tables = builtin_history()
    repeats = rejudge_history(tables, history_same_function(), noise={}).noise[tables[0].name]
    names = {row.model: resolve_history_name(row.model) for row in tables[0].rows}
    quiet = [
        model
        for model, rule in names.items()
        if model == BASELINE or (rule and one_function_in_one_chunk(rule))
    ]
    return {**provisional_floors(tables[0], quiet, SETTINGS), **repeats}


def from_runs(runs: Sequence[RunRecord]) -> dict[str, NoiseFloor]:
    """What runs say of the tasks in which they repeat enough; tasks that they lack are left out."""
    newest = {run.rule: run.rule_hash for run in sorted(runs, key=lambda run: run.finished_at)}
    runs = [run for run in runs if run.rule_hash == newest[run.rule]]
    found: dict[str, NoiseFloor] = {}
    for preset in PRESETS:
        own = [run for run in runs if run.preset == preset]
        for task, floor in estimate_variance(own, preset=preset).items():
            if floor.degrees_of_freedom >= ENOUGH:
                found.setdefault(task, floor)
    return found


def main() -> None:
    """Read the runs, write the file, print what it says and where that comes from."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="tables of runs (CSV)")
    parser.add_argument("--to", type=Path, default=TARGET)
    arguments = parser.parse_args()
    runs = [run for path in arguments.runs for run in read_runs(path)]
    floors = {**from_history(), **from_runs(runs)}
    try:
        write_variance(floors, arguments.to, NOTE)
    except OSError as error:
        raise UserError(f"--to {arguments.to} cannot be written: {error.strerror or error}") from error
    for task in TASKS:
        sys.stdout.write(f"{task}: {floors[task].source if task in floors else 'not known'}\n")
    sys.stdout.write(json.dumps({task: round(floors[task].sd, 4) for task in TASKS if task in floors}) + "\n")


if __name__ == "__main__":
    exit_plainly(main)
