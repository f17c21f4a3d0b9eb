"""Racing: who is dropped, when, and that nobody else is touched by it."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.fleet.test_fleet import results
from tests.fleet.tiny import load, tiny_runs, training_process

from archer.fleet.launch import Crash, launch
from archer.fleet.process import Plan
from archer.fleet.race import Race, Racer, losers, starters, together
from archer.fleet.run import Evaluation, Outcome, Run
from archer.fleet.train import Options, train
from archer.fleet.wire import outcome_from_json, outcome_to_json

RACE = Race(rungs=(0.5,), keep=0.5, behind=0.02)
EAGER = Race(rungs=(0.25, 0.5), keep=0.4, behind=-1.0)
"""Drops by rank alone, so that tiny runs have losers."""


def curve(*accuracies: float, every: int = 1) -> tuple[Evaluation, ...]:
    return tuple(
        Evaluation(every * (i + 1), 1.0, 2.0 - i / 100, accuracy, 2.0, accuracy)
        for i, accuracy in enumerate(accuracies)
    )


def racer(key: str, *accuracies: float, running: bool = True, seed: int = 0) -> Racer:
    return Racer(key, ("setting", seed), len(accuracies), curve(*accuracies), running)


RECIPE = replace(tiny_runs(1)[0].recipe, epochs=4)


def test_the_lower_half_leaves_where_it_is_well_behind() -> None:
    field = [racer("a", 0.1, 0.9), racer("b", 0.2, 0.5), racer("c", 0.1, 0.89), racer("d", 0.1, 0.1)]
    assert set(losers(field, RACE, RECIPE)) == {"b", "d"}


def test_close_racers_stay() -> None:
    field = [racer("a", 0.1, 0.500), racer("b", 0.1, 0.499), racer("c", 0.1, 0.490), racer("d", 0.1, 0.485)]
    assert losers(field, RACE, RECIPE) == {}


def test_nobody_is_compared_before_all_have_come_so_far() -> None:
    field = [racer("a", 0.1, 0.9), racer("b", 0.1, 0.1), racer("c", 0.1)]
    assert losers(field, RACE, RECIPE) == {}
    assert losers([*field[:2], racer("c")], RACE, RECIPE) == {}, "one that was never evaluated"
    assert set(losers([*field[:2], racer("c", 0.1, 0.8, 0.8)], RACE, RECIPE)) == {"b"}


def test_only_grid_points_of_one_setting_and_seed_are_compared() -> None:
    field = [racer("a", 0.1, 0.9), racer("b", 0.1, 0.1, seed=1)]
    assert losers(field, RACE, RECIPE) == {}


def test_one_that_diverged_or_was_dropped_before_takes_no_place() -> None:
    """Three of four stand at the rung: two of them stay."""
    gone = racer("gone", 0.99, running=False)
    field = [racer("a", 0.1, 0.9), racer("b", 0.1, 0.5), racer("c", 0.1, 0.1)]
    assert set(losers([gone, *field], RACE, RECIPE)) == {"c"}


def test_asked_again_the_answer_is_the_same() -> None:
    field = [racer("a", 0.1, 0.9), racer("b", 0.2, 0.5), racer("c", 0.1, 0.8), racer("d", 0.1, 0.1)]
    lost = losers(field, RACE, RECIPE)
    later = [
        replace(r, running=False) if r.key in lost else racer(r.key, 0.1, 0.9 if r.key == "a" else 0.8, 0.1)
        for r in field
    ]
    assert losers(later, RACE, RECIPE) == {}


def test_a_win_ends_the_race() -> None:
    won = racer("a", 1.0, running=False)
    assert set(losers([won, racer("b", 0.99), racer("c")], RACE, RECIPE)) == {"b", "c"}
    assert losers([racer("b", 0.99), racer("c")], RACE, RECIPE) == {}


def test_rungs_stand_at_evaluations() -> None:
    race = Race(rungs=(0.01, 0.3, 0.9))
    assert race.epochs(replace(RECIPE, epochs=200, evaluate_every=1)) == (2, 60, 180)
    assert race.epochs(replace(RECIPE, epochs=8, evaluate_every=4)) == (4,)


def grid(seeds: int = 2, **recipe: object) -> list[Run]:
    """Five grid points for each seed, in the order of a preset: those of one seed lie apart."""
    made = tiny_runs(1, **{"epochs": 8, **recipe})[0]  # type: ignore[arg-type]
    rates = (3e-2, 1e-2, 3e-3, 1e-3, 1e-5)
    return [replace(made, learning_rate=rate, seed=seed) for rate in rates for seed in range(seeds)]


def raced(runs: list[Run], **options: object) -> dict[str, Outcome]:
    return {o.key: o for o in train(runs, Options(race=EAGER, **options), load=load)}  # type: ignore[arg-type]


def test_who_finishes_a_race_has_the_result_of_a_run_without() -> None:
    runs = grid()
    alone = {o.key: o for o in train(runs, load=load)}
    found = raced(runs)
    assert set(found) == {run.key for run in runs}
    finished = {key for key, o in found.items() if o.status == "finished"}
    assert 2 <= len(finished) < len(runs), "nobody was dropped, or nobody finished"
    assert {run.seed for run in runs if run.key in finished} == {0, 1}
    for key, one in found.items():
        if one.status == "finished":
            assert results(one) == results(alone[key])
        else:
            assert (one.status, one.mad, one.held_out, one.validation) == ("dropped", None, None, None)
            assert one.curve == alone[key].curve[: len(one.curve)]
            assert one.epochs in (2, 4)
            assert f"after {one.epochs} epochs" in one.message


@pytest.mark.parametrize("largest", [5, 7])
def test_the_same_race_in_a_smaller_fleet(largest: int) -> None:
    """Whole places start together or wait, so that the same runs are dropped."""
    runs = grid()
    small, large = raced(runs, largest=largest), raced(runs)
    assert {k: (o.status, results(o)) for k, o in small.items()} == {
        k: (o.status, results(o)) for k, o in large.items()
    }


@pytest.mark.parametrize("largest", [1, 3])
def test_a_place_larger_than_the_fleet_still_ends(largest: int) -> None:
    found = raced(grid(1), largest=largest)
    assert len(found) == 5
    assert any(o.status == "finished" for o in found.values())


def test_places_start_whole() -> None:
    runs = together(grid(2))
    assert [run.seed for run in runs] == [0] * 5 + [1] * 5
    assert starters(runs, free=10, room=10) == 10
    assert starters(runs, free=9, room=10) == 5
    assert starters(runs, free=4, room=10) == 0
    assert starters(runs, free=4, room=4) == 4
    assert starters((), free=4, room=4) == 0


def test_a_diverging_run_diverges_in_a_race_too() -> None:
    runs = grid(1)
    runs[0] = replace(runs[0], learning_rate=float("nan"))
    found = raced(runs)
    assert found[runs[0].key].status == "diverged"
    assert any(o.status == "finished" for o in found.values())


def test_a_race_that_is_left_at_every_step_ends_as_it_would_have(tmp_path: Path) -> None:
    runs, found = grid(1), {}
    steps = {"checkpoints": tmp_path, "stop_after_seconds": 1e-9, "checkpoint_seconds": 0.0}
    for _ in range(4 * 8 + 1):  # epochs of four steps
        found |= raced([run for run in runs if run.key not in found], **steps)
    assert found == {k: replace(o, wall_seconds=found[k].wall_seconds) for k, o in raced(runs).items()}


@pytest.mark.parametrize(("stops", "largest"), [(3, 5), (6, 7), (17, 5)])
def test_a_race_taken_up_where_fewer_fit_ends_as_it_would_have(
    stops: int, largest: int, tmp_path: Path
) -> None:
    """Whoever waits is dropped at the same age as in the fleet, by the same comparisons."""
    runs, found = grid(), {}
    steps = {"checkpoints": tmp_path, "stop_after_seconds": 1e-9, "checkpoint_seconds": 0.0}
    for _ in range(stops):  # an epoch has four steps
        found |= raced([run for run in runs if run.key not in found], **steps)
    left = [run for run in runs if run.key not in found]
    found |= raced(left, checkpoints=tmp_path, largest=largest)
    assert {k: (o.status, results(o)) for k, o in found.items()} == {
        k: (o.status, results(o)) for k, o in raced(runs).items()
    }


@pytest.mark.slow
def test_a_race_that_is_killed_ends_as_it_would_have(tmp_path: Path) -> None:
    """Killed after each few lines but those within an epoch: who left is remembered in the checkpoint."""
    runs = grid()
    left, found = {run.key: run for run in runs}, {}
    for lines in (3, 5, 5, 6, 10**9):
        process = training_process(tmp_path, list(left.values()), largest=5, race=asdict(EAGER))
        assert process.stdout is not None
        said = (event for line in process.stdout if (event := json.loads(line))["event"] != "steps")
        for number, event in enumerate(said):
            if event["event"] == "outcome":
                outcome = outcome_from_json(event["outcome"], set(left))
                found[outcome.key] = outcome
                del left[outcome.key]
            if number >= lines:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        process.wait()
        if not left:
            break
    wanted = raced(runs)
    assert {k: (o.status, results(o)) for k, o in found.items()} == {
        k: (o.status, results(o)) for k, o in wanted.items()
    }


def test_a_drop_without_a_race_is_not_believed(tmp_path: Path) -> None:
    """A candidate's code cannot hide a bad run behind a race that nobody asked for."""
    run = tiny_runs(1)[0]
    (outcome,) = train([run], load=load)
    said = {**outcome_to_json(outcome), "status": "dropped", "mad": None, "held_out": None}
    line = json.dumps({"event": "outcome", "outcome": {**said, "validation": None}})

    class Liar:
        def give(self, text: str) -> None: ...

        def lines(self):
            yield line

        def kill(self) -> None: ...

        def end(self) -> str:
            return ""

    def start(command: list[str], scratch: Path, gpu: bool) -> Liar:
        return Liar()

    plan = Plan(("cpu",), tmp_path, threads=1)
    (crash,) = launch([run], plan, start=start)
    assert isinstance(crash, Crash)
    (kept,) = launch([run], replace(plan, race=RACE), start=start)
    assert isinstance(kept, Outcome)
    assert kept.status == "dropped"
