"""results/campaign.py: a project that knows the campaigns' candidates, and what it adds to the tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from archer.ledger import Ledger, read_runs, write_runs
from archer.ledger.records import ProposalRecord

RESULTS = Path(__file__).parents[2] / "results"
CANDIDATE = "gated_delta_net_double_beta"
KEPT = (CANDIDATE, "gated_delta_net", "delta_net")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of one candidate, and of what it was compared with."""
    (tmp_path / "results" / "campaign").mkdir(parents=True)
    shutil.copy(RESULTS / "campaign.py", tmp_path / "results")
    shutil.copy(RESULTS / "campaign" / f"{CANDIDATE}.py", tmp_path / "results" / "campaign")
    for table in ("quick.csv", "campaign.csv"):
        runs = [run for run in read_runs(RESULTS / table) if run.rule in KEPT and run.seed < 3]
        write_runs(tmp_path / "results" / table, runs)
    return tmp_path / "results"


def campaign(folder: Path, *arguments: object) -> str:
    command = [sys.executable, str(folder / "campaign.py"), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_candidate_whose_runs_are_whole_is_judged_and_nothing_is_trained(folder: Path) -> None:
    before = {run.key for table in folder.glob("*.csv") for run in read_runs(table)}
    assert f"{CANDIDATE}: finished" in campaign(folder, "begin", folder / "project")
    with Ledger.in_folder(folder / "project", read_only=True) as ledger:
        assert {run.key for run in ledger.runs()} == before
        (verdict,) = ledger.verdicts()
    assert verdict.rule == CANDIDATE
    assert verdict.against_reference.mean.seeds == 3


def test_what_lacks_a_run_waits_and_what_a_project_adds_comes_back(folder: Path) -> None:
    whole = read_runs(folder / "campaign.csv")
    gone = next(run for run in whole if run.rule == CANDIDATE and run.task == "Memorize")
    write_runs(folder / "campaign.csv", [run for run in whole if run != gone])
    said = campaign(folder, "begin", folder / "project")
    assert f"{CANDIDATE}: not whole, {gone.setting}" in said
    new = replace(gone, key="new", rule="new_rule", rule_hash="hash of new")
    proposal = ProposalRecord("p", "new_rule", "delta_net", (), "text of new", "", (), "structured", "t")
    with Ledger.in_folder(folder / "project") as ledger:
        ledger.add_runs([gone, new])
        ledger.add_proposal(proposal)
    assert campaign(folder, "absorb", folder / "project").startswith("2 runs more")
    assert {run.key for run in read_runs(folder / "campaign.csv")} == {*(run.key for run in whole), "new"}
    assert (folder / "campaign" / "new_rule.py").read_text() == "text of new"
    assert campaign(folder, "absorb", folder / "project").startswith("0 runs more")
