"""Archer's side of training: what a training process says is checked; one that dies is replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs

from archer.fleet.launch import Crash, Plan, launch
from archer.fleet.run import Outcome, Run
from archer.fleet.train import train
from archer.fleet.wire import outcome_from_json, outcome_to_json, runs_from_json, runs_to_json


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "cache"))
    return Plan(("cpu", "cpu"), tmp_path, threads=1)


def test_runs_and_outcomes_survive_the_wire() -> None:
    runs = tiny_runs(2)
    sent = json.loads(json.dumps(runs_to_json(runs)))
    assert runs_from_json(sent) == runs
    assert [run.key for run in runs_from_json(sent)] == [run.key for run in runs]
    for outcome in train(runs, load=load):
        assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome))), {outcome.key}) == outcome


def test_two_processes_share_the_work(plan: Plan) -> None:
    runs = [*tiny_runs(2), *tiny_runs(2, setting="compress")]
    found = [outcome for outcome in launch(runs, plan) if isinstance(outcome, Outcome)]
    assert sorted(map(results, found)) == sorted(map(results, train(runs, load=load)))


class Scripted:
    """A training process that says just what it is told to, then ends."""

    def __init__(self, lines: list[str], end: str = "status 137") -> None:
        self.said, self.ended, self.killed = lines, end, False

    def lines(self) -> Iterator[str]:
        yield from self.said

    def kill(self) -> None:
        self.killed = True

    def end(self) -> str:
        return self.ended


def launch_scripted(runs: list[Run], plan: Plan, *processes: Scripted) -> list[Outcome | Crash]:
    waiting = list(processes)
    one = replace(plan, devices=("cpu",))
    return list(launch(runs, one, start=lambda command, scratch, gpu: waiting.pop(0)))


def line(outcome: Outcome, **changes: object) -> str:
    return json.dumps({"event": "outcome", "outcome": {**outcome_to_json(outcome), **changes}})


def test_a_process_that_dies_alone_with_a_group_crashes_its_runs(plan: Plan) -> None:
    runs = tiny_runs(2)
    found = launch_scripted(runs, plan, Scripted([]))
    assert {crash.key for crash in found} == {run.key for run in runs}
    assert all(isinstance(crash, Crash) and "status 137" in crash.message for crash in found)


def test_what_was_finished_before_a_death_is_kept(plan: Plan) -> None:
    runs = tiny_runs(2)
    first, second = train(runs, load=load)
    found = launch_scripted(
        runs, plan, Scripted([line(first)]), Scripted([line(second), '{"event": "done"}'], "")
    )
    assert found == [first, second]


@pytest.mark.parametrize(
    "changes",
    [
        {"held_out": 1.5},
        {"held_out": None},
        {"mad": "0.9"},
        {"key": "another"},
        {"status": "won"},
        {"curve": [[1]]},
    ],
)
def test_a_result_that_is_none_is_not_believed(plan: Plan, changes: dict[str, object]) -> None:
    """A training process runs foreign code: a score that cannot be is a crash, not a score."""
    runs = tiny_runs(1)
    (outcome,) = train(runs, load=load)
    liar = Scripted([line(outcome, **changes)])
    (crash,) = launch_scripted(runs, plan, liar)
    assert isinstance(crash, Crash)
    assert liar.killed


def test_output_that_is_no_json_is_a_crash(plan: Plan) -> None:
    (crash,) = launch_scripted(tiny_runs(1), plan, Scripted(["hello"]))
    assert isinstance(crash, Crash)
    assert "no result" in crash.message
