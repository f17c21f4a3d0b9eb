"""Racing from a command's resources to the ledger: a dropped run is no result, and can be trained later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fleet.test_race import EAGER, grid
from tests.fleet.tiny import tiny_runs

from archer.cycle import training
from archer.cycle.project import Project
from archer.cycle.training import Resources, check_race, run_record, train_missing
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.fleet.launch import Crash
from archer.fleet.run import Outcome, Run
from archer.judge.cells import choose
from archer.ledger import Ledger, read_runs, write_runs
from archer.ledger.records import RunRecord
from archer.ledger.summary import score_table


def record(run: Run, status: str, validation: float | None = None) -> RunRecord:
    scores = (validation,) * 3
    return run_record(run, Outcome(run.key, status, *scores, 1, (), 1, 0.1, "cpu"), "tiny")  # type: ignore[arg-type]


def test_the_ledger_keeps_a_drop_until_there_is_a_result(tmp_path: Path) -> None:
    run = tiny_runs(1)[0]
    with Ledger.in_folder(tmp_path) as ledger:
        assert ledger.add_run(run_record(run, Crash(run.key, "gone"), "tiny"))
        assert ledger.add_run(record(run, "dropped"))
        assert not ledger.has_run(run.key)
        assert not ledger.add_run(run_record(run, Crash(run.key, "gone"), "tiny"))
        assert ledger.runs()[0].status == "dropped"
        assert ledger.add_run(record(run, "finished", 0.5))
        assert ledger.has_run(run.key)
        assert not ledger.add_run(record(run, "dropped"))
        assert ledger.runs()[0].held_out == 0.5


def test_a_dropped_run_is_never_a_score(tmp_path: Path) -> None:
    low, high = tiny_runs(1)[0], replace(tiny_runs(1)[0], learning_rate=1e-2)
    records = [record(low, "dropped"), record(high, "finished", 0.5)]
    cell = choose(("delta_net", "Context Recall", "s", 0), records)
    assert (cell.score, cell.failures) == (0.5, ())
    assert choose(("delta_net", "Context Recall", "s", 0), records[:1]).state == "missing"
    (row,) = score_table(records, "tiny")
    assert row.scores["Context Recall"] == 0.5
    assert "Context Recall" not in row.missing
    write_runs(tmp_path / "runs.csv", records)
    assert sorted(r.status for r in read_runs(tmp_path / "runs.csv")) == ["dropped", "finished"]


def test_racing_the_whole_protocol_is_refused() -> None:
    for preset in ("full", "full-cosine"):
        with pytest.raises(UserError, match="leave out --race"):
            check_race(Resources(race=True), preset)
    check_race(Resources(race=True), "baseline")
    check_race(Resources(), "full")


def test_a_race_drops_and_the_same_call_without_trains_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "Race", lambda: EAGER)
    runs, project = grid(1), Project(tmp_path / "project")
    trained: list[str] = []

    class Counting(Watcher):
        def finished(self, record: RunRecord) -> None:
            trained.append(record.status)

    def train(race: bool) -> dict[str, RunRecord]:
        trained.clear()
        resources = Resources(device="cpu", walls=False, race=race)
        return {r.key: r for r in train_missing(ledger, project, runs, "tiny", resources, Counting())}

    with Ledger.in_folder(project.folder) as ledger:
        raced = train(race=True)
        dropped = {key for key, one in raced.items() if one.status == "dropped"}
        assert 0 < len(dropped) < len(runs)
        assert train(race=True) == raced
        assert trained == []
        whole = train(race=False)
        assert trained == ["finished"] * len(dropped)
        assert {one.status for one in whole.values()} == {"finished"}
        assert all(whole[key] == raced[key] for key in raced.keys() - dropped)
