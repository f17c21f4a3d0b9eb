"""Make src/archer/judge/variance.json again: from runs where they repeat something, else from the history.

    python benchmarks/variance.py                                     the built-in history tables alone
    python benchmarks/variance.py results/runs.csv --preset baseline  runs, the history where they say nothing

Prints one line of JSON: the task scores' standard deviations.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from archer.judge.history import BASELINE, SETTINGS, rejudge_history
from archer.judge.noise import NoiseFloor, estimate_variance, provisional_floors, write_variance
from archer.judge.reach import history_same_function, one_function_in_one_chunk
from archer.ledger.history import builtin_history
from archer.ledger.records import TASKS
from archer.ledger.runs_csv import read_runs
from archer.rules import resolve_history_name

TARGET = Path(__file__).parents[1] / "src" / "archer" / "judge" / "variance.json"

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


def main() -> None:
    """Read the runs given, write the file, print what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="run tables (CSV)")
    parser.add_argument("--preset", default="baseline")
    parser.add_argument("--to", type=Path, default=TARGET)
    arguments = parser.parse_args()
    runs = [run for path in arguments.runs for run in read_runs(path)]
    measured = estimate_variance(runs, preset=arguments.preset) if runs else {}
    enough = {task: floor for task, floor in measured.items() if floor.degrees_of_freedom >= 3}
    floors = {task: replace(floor) for task, floor in {**from_history(), **enough}.items()}
    write_variance(floors, arguments.to, NOTE)
    sys.stdout.write(json.dumps({task: round(floors[task].sd, 4) for task in TASKS if task in floors}) + "\n")


if __name__ == "__main__":
    main()
