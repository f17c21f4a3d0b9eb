"""Processes that stand by: they train what any process trains, once each, and end when nobody needs them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs

from archer.fleet.launch import launch
from archer.fleet.process import PlainProcess, Plan, Process
from archer.fleet.run import Outcome
from archer.fleet.standby import Standby
from archer.fleet.train import train


class Started:
    """Starts real processes, and keeps them."""

    def __init__(self) -> None:
        self.processes: list[PlainProcess] = []

    def __call__(self, command: list[str], scratch: Path, gpu: bool) -> Process:
        self.processes.append(PlainProcess(command, scratch, gpu))
        return self.processes[-1]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "cache"))
    return Plan(("cpu",), tmp_path / "scratch", threads=1)


@pytest.fixture
def started() -> Iterator[Started]:
    made = Started()
    yield made
    for one in made.processes:
        one.kill()
        one.end()
        assert one.process.stdout is not None
        one.process.stdout.close()


def test_a_process_that_stood_by_trains_as_any_other(plan: Plan, started: Started) -> None:
    runs = tiny_runs(2)
    with closing(Standby(started)) as standby:
        standby.ready(plan)
        found = [o for o in launch(runs, plan, start=started, standby=standby) if isinstance(o, Outcome)]
        assert len(started.processes) == 1
        again = [o for o in launch(runs, plan, start=started, standby=standby) if isinstance(o, Outcome)]
    assert len(started.processes) == 2, "a process executes strangers' code: it is used for one training"
    wanted = sorted(map(results, train(runs, load=load)))
    assert sorted(map(results, found)) == wanted == sorted(map(results, again))


def test_a_process_that_died_while_it_waited_is_replaced(plan: Plan, started: Started) -> None:
    runs = tiny_runs(1)
    with closing(Standby(started)) as standby:
        standby.ready(plan)
        standby._waiting[standby._key(plan, 0)].result()
        os.kill(started.processes[0].process.pid, signal.SIGKILL)
        started.processes[0].process.wait()
        found = list(launch(runs, plan, start=started, standby=standby))
    assert len(started.processes) == 2
    assert [type(one) for one in found] == [Outcome]


def test_closing_ends_those_that_nobody_took(plan: Plan, started: Started) -> None:
    two = Plan(("cpu",), plan.scratch, threads=1, processes_per_device=2)
    with closing(Standby(started)) as standby:
        standby.ready(two)
        standby.ready(two)
        for waiting in standby._waiting.values():
            waiting.result()
        assert standby.take(two, 0) is started.processes[0]
        assert standby.take(two, 0) is None
    taken, left = started.processes
    assert len(started.processes) == 2
    assert left.process.poll() is not None
    assert taken.process.poll() is None


def test_a_process_whose_starter_is_gone_ends_by_itself(plan: Plan, started: Started) -> None:
    with closing(Standby(started)) as standby:
        standby.ready(plan)
        process = standby.take(plan, 0)
        assert process is not None
        assert process.end() == ""


def test_what_keeps_it_from_being_started_is_said(plan: Plan) -> None:
    def refuse(command: list[str], scratch: Path, gpu: bool) -> Process:
        raise OSError("no space left")

    with closing(Standby(refuse)) as standby:
        standby.ready(plan)
        with pytest.raises(OSError, match="no space"):
            list(launch(tiny_runs(1), plan, start=refuse, standby=standby))
