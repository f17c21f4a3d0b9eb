"""A training process may be killed at any moment; the next one ends with the same results."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs, training_process

from archer.fleet import checkpoint
from archer.fleet.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from archer.fleet.fleet import Fleet
from archer.fleet.run import Outcome, Run
from archer.fleet.train import Options, build_model, train
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
        lines_until_kill = chance.randrange(1, 12) if kills < ROUNDS else 10**9
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


def test_a_checkpoint_of_later_code_is_begun_afresh(tmp_path: Path) -> None:
    """What it holds may decide the result: it is not for this code to leave out."""
    path = tmp_path / "state.pt"
    write_checkpoint(path, {"epoch": 1})
    assert read_checkpoint(path) == {"epoch": 1}
    with patch.object(checkpoint, "FORMAT", checkpoint.FORMAT + 1):
        write_checkpoint(path, {"epoch": 2})
    assert read_checkpoint(path) is None


def test_what_a_kill_left_of_a_write_goes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    (tmp_path / "state.123.tmp").write_bytes(b"half")
    (tmp_path / "other.123.tmp").write_bytes(b"half")
    write_checkpoint(path, {"epoch": 1})
    assert {p.name for p in tmp_path.iterdir()} == {"state.pt", "other.123.tmp"}


def test_where_the_disk_is_full_it_is_said_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    runs = tiny_runs(2, epochs=2)
    said: list[dict[str, Any]] = []
    wanted = sorted(map(results, train(runs, load=load)))
    monkeypatch.setattr(os, "fsync", full)
    options = Options(checkpoints=tmp_path, checkpoint_seconds=0.0)
    assert sorted(map(results, train(runs, options, load=load, report=said.append))) == wanted
    assert {e["message"] for e in said if e["event"] == "unsaved"} == {
        "no checkpoint: No space left on device"
    }


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


@pytest.fixture(params=[20.0, 0.0], ids=["after an epoch", "after a step"])
def stopped(request: pytest.FixtureRequest, tmp_path: Path) -> Options:
    """What leaves a training as soon as it can be left."""
    return Options(checkpoints=tmp_path, stop_after_seconds=1e-9, checkpoint_seconds=request.param)


def ages(folder: Path, runs: list[Run]) -> set[tuple[int, int]]:
    state = read_checkpoint(checkpoint_path(folder, runs[0]))
    assert state is not None
    return {(member["epoch"], member["steps"]) for member in state["members"]}


def test_an_epoch_is_left_at_the_step_at_which_the_time_is_up(stopped: Options, tmp_path: Path) -> None:
    runs = tiny_runs(3)
    assert list(train(runs, stopped, load=load)) == []
    assert ages(tmp_path, runs) == ({(0, 1)} if stopped.checkpoint_seconds == 0 else {(1, 0)})


def test_taken_up_again_at_every_step_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    runs = tiny_runs(3, epochs=2)
    options = Options(checkpoints=tmp_path, stop_after_seconds=1e-9, checkpoint_seconds=0.0)
    found: list[Outcome] = []
    for _ in range(9):  # two epochs of four steps, and nothing more
        found += train(runs, options, load=load)
    assert {o.key: o.curve for o in found} == {o.key: o.curve for o in train(runs, load=load)}


def test_who_waits_in_the_middle_of_an_epoch_ends_it_before_joining_others(tmp_path: Path) -> None:
    """Two of three go on after an interruption; one of them diverges, and the third takes its place."""
    first, second, third = tiny_runs(3)
    runs = [first, replace(second, learning_rate=float("nan")), third]
    stop = Options(checkpoints=tmp_path, stop_after_seconds=1e-9, checkpoint_seconds=0.0)
    assert list(train(runs, stop, load=load)) == []
    assert ages(tmp_path, runs) == {(0, 1)}
    found = list(train(runs, Options(checkpoints=tmp_path, largest=2), load=load))
    assert [o.status for o in found] == ["diverged", "finished", "finished"]
    assert sorted(map(results, found)) == sorted(map(results, train(runs, load=load)))


def test_members_at_different_steps_of_an_epoch_end_it_first(tmp_path: Path) -> None:
    """As where some of them had to wait for memory, and the process was killed then."""
    runs = tiny_runs(4)
    model = build_model(runs[0])
    states = []
    for part, steps in ((runs[:2], 1), (runs[2:], 3)):
        fleet, left = (
            Fleet.start(model, part, load, torch.device("cpu")),
            iter([False] * (steps - 1) + [True]),
        )
        fleet.run_epoch(lambda left=left: next(left))
        states.append(fleet.state())
    together = {
        "members": [member for state in states for member in state["members"]],
        "weights": {n: torch.cat([state["weights"][n] for state in states]) for n in states[0]["weights"]},
    }
    write_checkpoint(checkpoint_path(tmp_path, runs[0]), together)
    assert ages(tmp_path, runs) == {(0, 1), (0, 3)}
    found = sorted(map(results, train(runs, Options(checkpoints=tmp_path), load=load)))
    assert found == sorted(map(results, train(runs, load=load)))


def test_taken_up_again_where_fewer_fit_the_others_wait(
    stopped: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tiny_runs(5)
    assert list(train(runs, stopped, load=load)) == []
    sizes, plain = set(), Fleet.run_epoch

    def seen(self: Fleet, pause: Callable[[], bool] | None = None) -> None:
        sizes.add(self.size)
        plain(self, pause)

    with monkeypatch.context() as patched:
        patched.setattr(Fleet, "run_epoch", seen)
        rest = sorted(map(results, train(runs, Options(checkpoints=tmp_path, largest=2), load=load)))
    assert rest == sorted(map(results, train(runs, load=load)))
    assert max(sizes) == 2


def test_a_checkpoint_of_which_only_the_last_is_wanted(stopped: Options, tmp_path: Path) -> None:
    runs = tiny_runs(3)
    assert list(train(runs, stopped, load=load)) == []
    wanted = runs[-1:]
    found = list(train(wanted, Options(checkpoints=tmp_path, largest=1), load=load))
    assert list(map(results, found)) == list(map(results, train(wanted, load=load)))


def test_the_budget_leaves_the_rest_for_later(stopped: Options, tmp_path: Path) -> None:
    runs = tiny_runs(3)
    assert list(train(runs, stopped, load=load)) == []
    assert checkpoint_path(tmp_path, runs[0]).exists()
    rest = sorted(map(results, train(runs, Options(checkpoints=tmp_path), load=load)))
    assert rest == sorted(map(results, train(runs, load=load)))
    assert not checkpoint_path(tmp_path, runs[0]).exists()


def test_who_begins_beside_members_that_wait_for_their_evaluation_has_not_diverged(tmp_path: Path) -> None:
    """Three of five go on where two fit: one that waited ends its epoch, and a new one begins with it."""
    runs = tiny_runs(5, rates=(1e-3,))
    stop = Options(checkpoints=tmp_path, stop_after_seconds=1e-9, checkpoint_seconds=0.0, largest=3)
    assert list(train(runs, stop, load=load)) == []
    found = {o.key: o.curve for o in train(runs, Options(checkpoints=tmp_path, largest=2), load=load)}
    assert found == {o.key: o.curve for o in train(runs, load=load)}


def test_who_waits_has_an_age_too(tmp_path: Path) -> None:
    """Else the time left would be told as if they had not begun."""
    runs = tiny_runs(5)
    said: list[dict[str, Any]] = []
    stop = Options(checkpoints=tmp_path, stop_after_seconds=1e-9, checkpoint_seconds=0.0)
    assert list(train(runs, stop, load=load)) == []
    list(train(runs, replace(stop, largest=2), load=load, report=said.append))
    first = next(event for event in said if event["event"] == "fleet")
    assert first["members"] == 2
    assert first["ages"] == {run.key: 0.25 for run in runs}


def test_members_at_different_steps_heed_the_budget(tmp_path: Path) -> None:
    runs = tiny_runs(4)
    stop = Options(checkpoints=tmp_path, stop_after_seconds=1e-9, checkpoint_seconds=0.0)
    for largest in (None, 2, None):
        assert list(train(runs, replace(stop, largest=largest), load=load)) == []
    assert ages(tmp_path, runs) == {(0, 3), (0, 1)}
