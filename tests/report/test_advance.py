"""The queue of reference runs: a piece may end anywhere, and a table stays a table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from archer.fleet.run import Evaluation, Outcome, Run
from archer.fleet.wire import outcome_to_json, runs_from_json
from archer.ledger import read_runs, write_runs

ADVANCE = Path(__file__).parents[2] / "results" / "advance.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of results of its own: the script writes beside itself."""
    (tmp_path / "results").mkdir()
    shutil.copy(ADVANCE, tmp_path / "results")
    return tmp_path / "results"


def advance(folder: Path, *arguments: object) -> str:
    command = [sys.executable, str(folder / "advance.py"), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def planned(folder: Path) -> list[Run]:
    """What is still to be trained of kda's under `quick`; the plan is kept."""
    (folder / "plan.json").write_text(advance(folder, "plan", "quick", "kda", "--seeds", 3))
    return runs_from_json(json.loads((folder / "plan.json").read_text()))


def absorb(folder: Path, runs: list[Run]) -> str:
    curve = (Evaluation(1, 1.0, 1.0, 0.5, 1.0, 0.5),)
    made = (Outcome(run.key, "finished", 0.5, 0.5, 0.5, 1, curve, 1000, 2.0, "a card", "") for run in runs)
    lines = (json.dumps({"event": "outcome", "outcome": outcome_to_json(one)}) for one in made)
    (folder / "outcomes.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return advance(folder, "absorb", folder / "outcomes.jsonl", folder / "plan.json")


def test_what_came_is_not_asked_for_again(folder: Path) -> None:
    runs = planned(folder)
    assert len(runs) == 18
    assert absorb(folder, runs[:7]).startswith("7 runs in results/quick.csv\n")
    assert {run.key for run in planned(folder)} == {run.key for run in runs[7:]}


def test_a_newer_version_waits_until_it_is_whole(folder: Path) -> None:
    """Half of it in the table would take the rule's row off every page, and nobody may judge two versions."""
    runs = planned(folder)
    absorb(folder, runs)
    table = folder / "quick.csv"
    old = [
        replace(r, rule_hash="0ld", key=f"{r.key}/old", finished_at="2025-01-01") for r in read_runs(table)
    ]
    write_runs(table, old)
    assert len(planned(folder)) == 18
    absorb(folder, runs[:15])
    assert {run.rule_hash for run in read_runs(table)} == {"0ld"}
    assert len(read_runs(folder / "waiting" / "quick.csv")) == 15
    assert {run.key for run in planned(folder)} == {run.key for run in runs[15:]}
    absorb(folder, runs[15:])
    assert {run.key for run in read_runs(table)} == {run.key for run in runs}
    assert not (folder / "waiting" / "quick.csv").exists()
