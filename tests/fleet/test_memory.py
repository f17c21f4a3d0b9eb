"""What a run takes of a GPU's memory is measured once per shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fleet.tiny import load, tiny_runs

from archer.fleet import memory
from archer.fleet.run import Run
from archer.fleet.train import build_model

GPU = torch.device("cuda:0")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A GPU of a thousand bytes, on which each run is found to take ten; the shapes that were measured."""
    shapes: list[str] = []

    def measure(model, run: Run, device, load) -> int:
        shapes.append(run.setting.name)
        return 10

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(memory, "_bytes_per_run_cuda", measure)
    monkeypatch.setattr(memory, "_free_bytes_cuda", lambda device, share: int(1000 * share))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    return shapes


def room(run: Run, share: float = 1.0) -> int:
    return memory.capacity(build_model(run), run, GPU, load, share)


def test_a_shape_is_measured_once_whoever_asks(measured: list[str]) -> None:
    run, other = tiny_runs(2)
    assert (room(run), room(other), room(other, share=0.5)) == (70, 70, 35)
    assert len(measured) == 1


def test_what_changes_the_memory_is_measured_anew(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_runs(1)[0]
    others = [
        tiny_runs(1, rule="decay")[0],
        tiny_runs(1, setting="memorize")[0],
        replace(run, recipe=replace(run.recipe, batch_size=8)),
        replace(run, recipe=replace(run.recipe, precision="bf16")),
    ]
    for one in (run, *others):
        room(one)
    assert len(measured) == 5
    room(replace(run, recipe=replace(run.recipe, epochs=99), seed=7, learning_rate=1.0))
    assert len(measured) == 5
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another card")
    room(run)
    assert len(measured) == 6


def test_where_not_even_the_two_that_are_measured_fit_one_is_tried(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> int:
        raise torch.OutOfMemoryError("not enough memory (made up by the test)")

    monkeypatch.setattr(memory, "_bytes_per_run_cuda", full)
    assert room(tiny_runs(1)[0]) == 1


@pytest.mark.parametrize("text", ["", "0", "-3", "nan", "ten"])
def test_a_file_that_holds_no_number_is_measured_again(
    measured: list[str], tmp_path: Path, text: str
) -> None:
    run = tiny_runs(1)[0]
    room(run)
    (path,) = tmp_path.glob("archer-bytes-*")
    path.write_text(text)
    assert room(run) == 70
    assert path.read_text() == "10"
    assert len(measured) == 2


def test_without_a_place_to_keep_it_it_is_measured_all_the_same(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError("no space left on device (made up by the test)")

    monkeypatch.setattr(Path, "write_text", full)
    run = tiny_runs(1)[0]
    assert (room(run), room(run)) == (70, 70)
    assert len(measured) == 2
