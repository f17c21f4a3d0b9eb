"""Where GPUs train, the processes of the next training get ready while a rule is proposed and verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.fleet.tiny import tiny_runs

from archer.cycle import laboratory, training
from archer.cycle.laboratory import open_laboratory
from archer.cycle.project import Project
from archer.cycle.training import SPLITS, Resources, starter, train_missing
from archer.cycle.watch import Watcher
from archer.fleet.launch import launch
from archer.fleet.process import Plan, Process
from archer.fleet.run import Outcome, Run
from archer.fleet.standby import Standby
from archer.ledger import Ledger
from archer.mad import PRESETS
from archer.mad.store import load


class Waiting:
    """A process that only waits."""

    def __init__(self) -> None:
        self.over = False

    def give(self, text: str) -> None: ...
    def lines(self) -> Iterator[str]:
        return iter(())

    def kill(self) -> None:
        self.over = True

    def end(self) -> str:
        return "killed" if self.over else ""


@pytest.mark.parametrize(("devices", "count"), [(("cpu",), 0), (("cuda:0", "cuda:1"), 4)])
def test_each_place_of_a_gpu_gets_a_process_and_a_processor_none(
    devices: tuple[str, ...], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], Waiting]] = []

    def start(command: list[str], scratch: Path, gpu: bool) -> Process:
        assert gpu
        assert scratch.is_dir()
        started.append((command[-2:], Waiting()))
        return started[-1][1]

    plan = Plan(devices, tmp_path / "training", threads=3, processes_per_device=2)
    monkeypatch.setattr(laboratory, "training_plan", lambda project, resources: plan)
    monkeypatch.setattr(laboratory, "starter", lambda resources: start)
    with open_laboratory(tmp_path, PRESETS["smoke"], resources=Resources(device="cpu")) as lab:
        lab.stand_by()
        lab.stand_by()
        assert isinstance(lab.standby, Standby)
        for waiting in lab.standby._waiting.values():
            waiting.result()
    assert len(started) == count
    assert all(command == [devices[i % 2], "3"] for i, (command, _) in enumerate(started))
    assert all(process.over for _, process in started), "left behind when the laboratory closed"


def test_where_gpus_train_processes_get_ready_while_data_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more of them than there are groups of runs, here two."""
    started: list[list[str]] = []
    while_drawn: list[int] = []

    def start(command: list[str], scratch: Path, gpu: bool) -> Process:
        started.append(command[-2:])
        return Waiting()

    def draw(runs: list[Run], data_dir: Path | None) -> None:
        for waiting in standby._waiting.values():
            waiting.result()
        while_drawn.append(len(started))

    plan = Plan(("cuda:0", "cuda:1"), tmp_path / "training", threads=3, processes_per_device=2)
    monkeypatch.setattr(training, "training_plan", lambda project, resources: plan)
    monkeypatch.setattr(training, "starter", lambda resources: start)
    monkeypatch.setattr(training, "_prepare_data", draw)
    runs = [*tiny_runs(2), *tiny_runs(1, setting="compress")]
    with Ledger.in_folder(tmp_path) as ledger, closing(Standby(start)) as standby:
        found = train_missing(ledger, Project(tmp_path), runs, "smoke", Resources(), Watcher(), standby)
    assert while_drawn == [2]
    assert started[:2] == [["cuda:0", "3"], ["cuda:1", "3"]]
    assert [record.status for record in found] == ["crashed"] * 3


def test_behind_the_walls_a_process_that_stood_by_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "cache"))
    plan = Plan(("cpu",), tmp_path / "training", threads=1)
    walled, commands = starter(Resources()), []

    def start(command: list[str], scratch: Path, gpu: bool) -> Process:
        commands.append(command)
        return walled(command, scratch, gpu)

    runs = tiny_runs(1)
    for run in runs:  # behind the walls the data can be read only
        for split in SPLITS:
            load(run.setting, run.seed, split)
    with closing(Standby(start)) as standby:
        standby.ready(plan)
        (outcome,) = launch(runs, plan, start=start, standby=standby)
    assert isinstance(outcome, Outcome)
    assert outcome.status == "finished"
    assert len(commands) == 1
