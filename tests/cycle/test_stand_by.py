"""Where GPUs train, the processes of the next training get ready while a rule is proposed and verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archer.cycle import laboratory
from archer.cycle.laboratory import open_laboratory
from archer.cycle.training import Resources
from archer.fleet.launch import Plan, Process
from archer.fleet.standby import Standby
from archer.mad import PRESETS


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
        started.append((command[-3:], Waiting()))
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
    assert all(command == ["--stand-by", devices[i % 2], "3"] for i, (command, _) in enumerate(started))
    assert all(process.over for _, process in started), "left behind when the laboratory closed"
