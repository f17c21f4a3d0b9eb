"""Archer's side of training: what a training process says is checked; one that dies is replaced."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs, training_process

from archer.fleet import worker
from archer.fleet.checkpoint import checkpoint_path
from archer.fleet.groups import Waiting
from archer.fleet.launch import Crash, launch, main
from archer.fleet.process import PlainProcess, Plan
from archer.fleet.run import Outcome, Run, Subject
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
        self.plans: list[dict[str, Any]] = []

    def give(self, text: str) -> None:
        self.plans.append(json.loads(text))

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


def fleet_of(members: Any, **changes: Any) -> str:
    told = {"subject": "rule", "settings": ["one"], "epochs": 4, "parameters": 9, "ages": {}}
    return json.dumps({"event": "fleet", "members": members, **told, **changes})


def test_what_dies_with_several_in_training_is_tried_with_half_as_many(plan: Plan) -> None:
    """Where the system's memory ends a process is killed, and cannot say why."""
    runs = tiny_runs(6)
    done = [*(line(outcome) for outcome in train(runs, load=load)), '{"event": "done"}']
    dying = [Scripted([fleet_of(6)]), Scripted([fleet_of(3)])]
    ending = Scripted([fleet_of(1), *done], "")
    assert len(launch_scripted(runs, plan, *dying, ending)) == 6
    orders = [one.plans[0]["options"]["largest"] for one in (*dying, ending)]
    assert orders == [None, 3, 1]


def test_a_group_that_got_smaller_leaves_the_next_as_it_is(plan: Plan) -> None:
    runs = [*tiny_runs(4), *tiny_runs(2, setting="compress")]
    first, second = runs[:4], runs[4:]
    done = '{"event": "done"}'
    lines = [[*(line(o) for o in train(group, load=load)), done] for group in (first, second)]
    dying, ending = Scripted([fleet_of(4)]), Scripted([*lines[0], *lines[1]], "")
    assert len(launch_scripted(runs, plan, dying, ending)) == 6
    assert [one["options"]["largest"] for one in ending.plans] == [2, None]


def test_what_dies_with_one_in_training_is_given_up(plan: Plan) -> None:
    runs = tiny_runs(6)
    dying = [Scripted([fleet_of(3)]), Scripted([fleet_of(1)])]
    found = launch_scripted(runs, plan, *dying)
    assert {crash.key for crash in found if isinstance(crash, Crash)} == {run.key for run in runs}


@pytest.mark.parametrize("members", [10**9, -3, "many", None, True])
def test_how_many_were_in_training_is_not_believed_either(plan: Plan, members: object) -> None:
    """It is heard from a process that runs foreign code: the tries come to an end whatever it says."""
    runs, said = tiny_runs(2), fleet_of(members)
    dying = [Scripted([said]) for _ in range(3)]
    assert len(launch_scripted(runs, plan, *dying)) == 2


def test_a_process_that_says_why_is_not_tried_with_fewer(plan: Plan) -> None:
    failed = json.dumps({"event": "failed", "message": "one run does not fit"})
    (crash, _) = launch_scripted(tiny_runs(2), plan, Scripted([fleet_of(2), failed]))
    assert isinstance(crash, Crash)
    assert crash.message == "one run does not fit"


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


EPOCH = {"event": "epoch", "epoch": 1.0, "ages": {"key": 1.0}, "best": {"Memorize": 0.5}}


@pytest.mark.parametrize(
    "said",
    [
        fleet_of("two"),
        fleet_of(2, settings="one"),
        fleet_of(2, ages=[1]),
        json.dumps({"event": "fleet", "members": 2}),
        json.dumps({**EPOCH, "epoch": None}),
        json.dumps({**EPOCH, "best": {"Memorize": "0.5"}}),
        json.dumps({**EPOCH, "ages": {"key": float("nan")}}),
        json.dumps({**EPOCH, "epoch": 10**400}),
        "[" * 100_000,
        json.dumps({"event": "unsaved", "message": {}}),
        json.dumps({"event": ["fleet"]}),
        json.dumps(["fleet"]),
    ],
)
def test_what_cannot_be_told_on_is_not(plan: Plan, said: str) -> None:
    """What watches a training formats these numbers and names: it must not end for what they are."""
    liar, heard = Scripted([said]), []
    one = replace(plan, devices=("cpu",))
    (crash,) = launch(tiny_runs(1), one, start=lambda command, scratch, gpu: liar, report=heard.append)
    assert isinstance(crash, Crash)
    assert "no result" in crash.message
    assert liar.killed
    assert heard == []


def test_what_is_told_on_moves_no_cursor(plan: Plan) -> None:
    heard: list[dict[str, Any]] = []
    said = [fleet_of(1, subject="a\x1b[2J"), json.dumps({"event": "unsaved", "message": "x" * 9999})]
    one = replace(plan, devices=("cpu",))
    list(launch(tiny_runs(1), one, start=lambda *_: Scripted(said), report=heard.append))
    assert heard[0]["subject"] == "a [2J"
    assert len(heard[1]["message"]) == 1000


def test_output_that_is_no_json_is_a_crash(plan: Plan) -> None:
    (crash,) = launch_scripted(tiny_runs(1), plan, Scripted(["hello"]))
    assert isinstance(crash, Crash)
    assert "no result" in crash.message


def test_a_device_takes_several_processes(plan: Plan) -> None:
    """Groups go to different processes of one device; each process has its part of the memory."""
    runs = [*tiny_runs(2), *tiny_runs(2, setting="compress")]
    two = replace(plan, devices=("cpu",), processes_per_device=2)
    heard: list[dict[str, object]] = []
    given: list[dict[str, Any]] = []

    class Listening(PlainProcess):
        def give(self, text: str) -> None:
            given.append(json.loads(text))
            super().give(text)

    found = [o for o in launch(runs, two, start=Listening, report=heard.append) if isinstance(o, Outcome)]
    assert sorted(map(results, found)) == sorted(map(results, train(runs, load=load)))
    assert {event["device"] for event in heard} == {"cpu (1)", "cpu (2)"}
    assert [one["options"]["memory_share"] for one in given] == [0.5, 0.5]
    assert [len(one["runs"]) for one in given] == [2, 2]


class Gated(Scripted):
    """A training process that says "done" after each plan, the first time once it may."""

    def __init__(self, may: threading.Event, wanted: int, then: threading.Event) -> None:
        super().__init__([], "")
        self.may, self.wanted, self.then = may, wanted, then

    def lines(self) -> Iterator[str]:
        assert self.may.wait(60), "the other place never had as many groups as it could have taken"
        while True:
            if len(self.plans) == self.wanted:
                self.then.set()
            yield '{"event": "done"}'


def test_whoever_is_free_takes_the_next_group(plan: Plan) -> None:
    """While the first is busy with one group, the second trains the three others."""
    runs = [
        run
        for setting, chunk in (("recall", 8), ("compress", 8), ("recall", 4), ("compress", 4))
        for run in tiny_runs(1, setting=setting, chunk_size=chunk)
    ]
    at_once, when_over = threading.Event(), threading.Event()
    at_once.set()
    busy, free = Gated(when_over, 1, threading.Event()), Gated(at_once, 3, when_over)
    waiting = {"device-0": busy, "device-1": free}
    assert list(launch(runs, plan, start=lambda command, scratch, gpu: waiting[scratch.name])) == []
    assert [len(process.plans) for process in (busy, free)] == [1, 3]
    assert [run.setting.task for run in runs_from_json(busy.plans[0])] == ["Context Recall"]
    given = [run.setting.task for plan in free.plans for run in runs_from_json(plan)]
    assert given == ["Context Recall", "Compress", "Compress"], "its own, the heaviest first, then another's"


def test_nobody_takes_what_another_device_can_begin_itself(plan: Plan) -> None:
    """One heavy group and two light ones: they go to two devices, two processes each, by their weight."""
    heavy = tiny_runs(4, epochs=40)
    light = [*tiny_runs(1, setting="compress"), *tiny_runs(1, setting="compress", chunk_size=4)]
    waiting = Waiting([*light, *heavy], devices=2)
    assert [(place, len(group)) for place, group in waiting.first(4)] == [(0, 4), (1, 1), (3, 1)]
    waiting = Waiting([*light, *heavy], devices=2)
    assert [(place, len(group)) for place, group in waiting.first(2)] == [(0, 4), (1, 1)]
    assert [waiting.take(0), waiting.take(1)] == [[light[1]], []]


def test_when_the_time_is_over_no_other_group_is_begun(plan: Plan) -> None:
    runs = [*tiny_runs(1), *tiny_runs(1, setting="compress")]
    for seconds, begun in ((None, 2), (1e-9, 1)):
        process = Scripted(['{"event": "done"}'] * 2, "")
        assert launch_scripted(runs, replace(plan, stop_after_seconds=seconds), process) == []
        assert len(process.plans) == begun


def test_a_process_with_a_past_is_no_proof_against_a_group(plan: Plan) -> None:
    """It trained one group and dies with the next: that is tried once more, in a process of its own."""
    runs = [*tiny_runs(1), *tiny_runs(1, setting="compress")]
    first, second = train(runs, load=load)
    done = '{"event": "done"}'
    found = launch_scripted(runs, plan, Scripted([line(first), done]), Scripted([line(second), done], ""))
    assert found == [first, second]
    found = launch_scripted(runs, plan, Scripted([line(first), done]), Scripted([]))
    assert found[0] == first
    assert isinstance(found[1], Crash)


NOSY = """
import os, sys
from torch import nn

class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        found = sys.stdin.read() + os.read(0, 100).decode()
        print("printed" + found)
        if found:
            raise ValueError("what should be trained next is open to reading")
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return self.linear(x.cumsum(1))
"""


def test_trained_code_finds_neither_the_plans_nor_the_answers(tmp_path: Path) -> None:
    """Its standard input is empty, and what it prints is no event."""
    longer_than_any_buffer = NOSY + "#" * 100_000
    nosy = Subject("Mixer", longer_than_any_buffer, "nosy", module="mixer.py:Mixer")
    plans = [[replace(run, subject=nosy)] for run in tiny_runs(2)]
    said, _ = training_process(tmp_path, *plans).communicate(timeout=240)
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert (events.count("outcome"), events.count("done"), events[-1]) == (2, 2, "done")


def test_a_training_process_trains_one_plan_after_the_other(tmp_path: Path) -> None:
    plans = [tiny_runs(2), tiny_runs(1, setting="compress"), tiny_runs(1, rule="softmax")]
    process = training_process(tmp_path, *plans)
    said, _ = process.communicate(timeout=240)
    events = [json.loads(line) for line in said.splitlines()]
    assert process.returncode == 0
    assert [event["event"] for event in events if event["event"] in ("ready", "start", "done")] == [
        "ready", *("start", "done") * 3
    ]  # fmt: skip
    runs = [run for plan in plans for run in plan]
    keys = {run.key for run in runs}
    found = [outcome_from_json(e["outcome"], keys) for e in events if e["event"] == "outcome"]
    assert list(map(results, found)) == list(map(results, train(runs, load=load)))


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
    made = {**runs_to_json(runs), "options": options, "data_dir": None}
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file"),
        ("a diary\n", "is no plan ("),
        ('{"runs": []}', "expected an obj"),
    ],
)
def test_a_file_that_is_no_plan(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    assert main([str(tmp_path / "plan.json"), str(tmp_path / "outcomes.jsonl")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "outcomes.jsonl").exists()


@pytest.mark.parametrize("arguments", [[], ["cpu"], ["cpu", "many"]])
def test_a_training_process_says_how_it_is_started(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert worker.main(arguments) == 2
    assert "usage: python -m archer.fleet.worker DEVICE THREADS" in capsys.readouterr().err


def test_a_file_that_holds_no_outcomes_is_left_alone(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    command, folder = entry(plan, tiny_runs(1))
    (folder / "outcomes.jsonl").write_text("a diary\n")
    assert main(command) == 2
    assert "no file of outcomes" in capsys.readouterr().err
    assert (folder / "outcomes.jsonl").read_text() == "a diary\n"
