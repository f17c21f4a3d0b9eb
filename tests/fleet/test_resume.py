"""A training process may be killed at any moment; the next one ends with the same results."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs, training_process

from archer.fleet.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from archer.fleet.fleet import Fleet
from archer.fleet.train import Options, train
from archer.fleet.wire import outcome_from_json

ROUNDS = 20


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_same_results(tmp_path: Path) -> None:
    runs = tiny_runs(4, epochs=30, evaluate_every=2)
    left = {run.key: run for run in runs}
    found, kills, chance = [], 0, random.Random(0)
    while left:
        process = training_process(tmp_path, list(left.values()))
        assert process.stdout is not None
        lines_until_kill = chance.randrange(1, 5) if kills < ROUNDS else 10**9
        for number, line in enumerate(process.stdout):
            event = json.loads(line)
            if event["event"] == "outcome":
                outcome = outcome_from_json(event["outcome"], set(left))
                found.append(outcome)
                del left[outcome.key]
            if number >= lines_until_kill:
                time.sleep(chance.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        process.stdout.close()
        process.wait()
    assert kills == ROUNDS
    undisturbed = sorted(map(results, train(runs, load=load)))
    assert sorted(map(results, found)) == undisturbed


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_checkpoint(path, {"weights": torch.arange(1000)})
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", whole[:100] + b"x" + whole[101:]):
        path.write_bytes(damaged)
        assert read_checkpoint(path) is None
    path.write_bytes(whole)
    state = read_checkpoint(path)
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(1000))


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    write_checkpoint(path, {"epoch": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, {"epoch": 2})
    assert read_checkpoint(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_taken_up_again_where_fewer_fit_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tiny_runs(5)
    assert list(train(runs, Options(checkpoints=tmp_path, stop_after_seconds=1e-9), load=load)) == []
    sizes, plain = set(), Fleet.run_epoch

    def seen(self: Fleet) -> None:
        sizes.add(self.size)
        plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "run_epoch", seen)
        rest = sorted(map(results, train(runs, Options(checkpoints=tmp_path, largest=2), load=load)))
    assert rest == sorted(map(results, train(runs, load=load)))
    assert max(sizes) == 2


def test_a_checkpoint_of_which_only_the_last_is_wanted(tmp_path: Path) -> None:
    runs = tiny_runs(3)
    assert list(train(runs, Options(checkpoints=tmp_path, stop_after_seconds=1e-9), load=load)) == []
    wanted = runs[-1:]
    found = list(train(wanted, Options(checkpoints=tmp_path, largest=1), load=load))
    assert list(map(results, found)) == list(map(results, train(wanted, load=load)))


def test_the_budget_leaves_the_rest_for_later(tmp_path: Path) -> None:
    runs = tiny_runs(3)
    options = Options(checkpoints=tmp_path, stop_after_seconds=1e-9)
    assert list(train(runs, options, load=load)) == []
    assert checkpoint_path(tmp_path, runs[0]).exists()
    rest = sorted(map(results, train(runs, Options(checkpoints=tmp_path), load=load)))
    assert rest == sorted(map(results, train(runs, load=load)))
    assert not checkpoint_path(tmp_path, runs[0]).exists()
