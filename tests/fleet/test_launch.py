"""Archer's side of training: what a training process says is checked; one that dies is replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs

from archer.fleet.checkpoint import checkpoint_path
from archer.fleet.launch import Crash, Plan, launch, main
from archer.fleet.run import Outcome, Run
from archer.fleet.train import Options, train
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


def test_a_device_takes_several_processes(plan: Plan) -> None:
    """Groups go to different processes of one device; each process has its part of the memory."""
    runs = [*tiny_runs(2), *tiny_runs(2, setting="compress")]
    two = replace(plan, devices=("cpu",), processes_per_device=2)
    heard: list[dict[str, object]] = []
    found = [o for o in launch(runs, two, report=heard.append) if isinstance(o, Outcome)]
    assert sorted(map(results, found)) == sorted(map(results, train(runs, load=load)))
    assert {event["device"] for event in heard} == {"cpu (1)", "cpu (2)"}
    for place in range(2):
        given = json.loads((plan.scratch / f"device-{place}" / "plan.json").read_text())
        assert given["options"]["memory_share"] == 0.5
        assert len(given["runs"]) == 2


def test_checkpoints_go_where_their_group_goes(plan: Plan) -> None:
    """What the second process began is taken up by the first, once that has its group."""
    runs = tiny_runs(2, setting="compress")
    kept = checkpoint_path(plan.scratch / "device-1" / "checkpoints", runs[0])
    kept.parent.mkdir(parents=True)
    list(train(runs, Options(checkpoints=kept.parent, stop_after_seconds=1e-9), load=load))
    assert kept.exists()
    taken: list[bool] = []

    def start(command: list[str], scratch: Path, gpu: bool) -> Scripted:
        taken.append(checkpoint_path(scratch / "checkpoints", runs[0]).exists())
        return Scripted([])

    list(launch(runs, replace(plan, devices=("cpu",)), start=start))
    assert taken == [True]
    assert not kept.exists()


def entry(plan: Plan, runs: list[Run], seconds: float | None = None) -> tuple[list[str], Path]:
    """The arguments of the command that trains a plan, and its file of outcomes."""
    folder = plan.scratch
    options = {
        "device": "cpu", "checkpoints": str(folder / "here"), "checkpoint_seconds": 0.0,
        "stop_after_seconds": seconds, "largest": None,
    }  # fmt: skip
    made = {**runs_to_json(runs), "options": options, "threads": 1, "data_dir": None}
    (folder / "plan.json").write_text(json.dumps(made))
    return [str(folder / "plan.json"), str(folder / "outcomes.jsonl"), "--processes", "2"], folder


def kept_outcomes(folder: Path, runs: list[Run]) -> list[Outcome]:
    lines = (folder / "outcomes.jsonl").read_text().splitlines()
    return [outcome_from_json(json.loads(line)["outcome"], {run.key for run in runs}) for line in lines]


def test_the_command_trains_a_plan_and_continues(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [*tiny_runs(2), *tiny_runs(2, setting="compress")]
    command, folder = entry(plan, runs)
    assert main(command) == 0
    wanted = sorted(map(results, train(runs, load=load)))
    assert sorted(map(results, kept_outcomes(folder, runs))) == wanted
    path = folder / "outcomes.jsonl"
    path.write_text(path.read_text()[:-20])  # killed in the middle of a line
    capsys.readouterr()
    assert main(command) == 0
    assert sorted(map(results, kept_outcomes(folder, runs))) == wanted
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(event["event"] == "outcome" for event in events) == 1
    assert events[-1] == {"event": "done", "known": 4, "crashed": 0, "left": 0}


def test_the_command_stops_in_time(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tiny_runs(2)
    command, folder = entry(plan, runs, seconds=1e-6)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["left"] == 2
    assert list(folder.glob("here/device-*/checkpoints/fleet-*.pt"))


def test_a_file_that_holds_no_outcomes_is_left_alone(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    command, folder = entry(plan, tiny_runs(1))
    (folder / "outcomes.jsonl").write_text("a diary\n")
    assert main(command) == 2
    assert "no file of outcomes" in capsys.readouterr().err
    assert (folder / "outcomes.jsonl").read_text() == "a diary\n"
