"""Where the ceiling leaves no room: words by arithmetic, no seeds spent; and epochs until solved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.judge.runs import make_run, make_runs

from archer.judge import NoiseFloor, UntilDecided, compare, decide_sequentially
from archer.judge.ceiling import headroom, solved_after
from archer.judge.cells import Cells
from archer.judge.verdicts import headline
from archer.ledger.records import TASKS, Comparison, CurvePoint, RunRecord, TaskComparison
from archer.mad.presets import PRESETS

LOUD = {task: NoiseFloor(task, 0.3, 4, "made up", 1, 0.3, heterogeneity=4.0) for task in TASKS}
QUIET = {task: NoiseFloor(task, 1e-4, 40, "made up", 1, 1e-4, heterogeneity=100.0) for task in TASKS}


def of(comparison: Comparison, task: str) -> TaskComparison:
    return next(one for one in comparison.tasks if one.task == task)


def runs_at(ours: float, theirs: float, full: Sequence[str], seeds: Sequence[int] = (0,)) -> list[RunRecord]:
    """Rules a and b with these scores on the tasks of `full`, and half of them elsewhere."""
    level = {"a": ours, "b": theirs}
    return make_runs("ab", lambda rule, task, *_: level[rule] * (1.0 if task in full else 0.5), seeds=seeds)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.995, 1.0], 0.0025),
        ([0.99], 0.01),
        ([0.989, 1.0], math.inf),
        ([1.0, float("nan")], math.inf),
        ([], math.inf),
    ],
)
def test_how_far_another_rule_could_be_above(scores: list[float], expected: float) -> None:
    assert headroom(scores, 0.01) == pytest.approx(expected)


@pytest.mark.parametrize("noise", [LOUD, QUIET, {}])
@pytest.mark.parametrize(
    ("seeds", "word", "more"), [(1, "undecided", 10), (10, "undecided", 1), (11, "same", None)]
)
def test_both_at_the_ceiling_are_the_same_after_many_seeds_whatever_the_noise(
    noise: dict[str, NoiseFloor], seeds: int, word: str, more: int | None
) -> None:
    """A difference far above the quiet noise, and yet none above the margin is possible."""
    runs = runs_at(0.9991, 0.9997, TASKS, range(seeds))
    found = of(compare(runs, "a", "b", preset="full", noise=noise), "Memorize")
    assert (found.word, found.no_room, found.p_value, found.p_adjusted) == (word, "both", None, None)
    assert found.difference == pytest.approx(-0.0006)
    assert (found.low, found.high) == pytest.approx((-0.0009, 0.0003))
    assert found.more_seeds == more
    assert not found.may_be_won


def test_one_seed_calls_nothing_the_same_however_quiet_others_are() -> None:
    runs = {n: runs_at(0.5, 0.5, TASKS, range(n)) for n in (1, 2)}
    words = {n: of(compare(r, "a", "b", preset="full", noise=QUIET), "Memorize") for n, r in runs.items()}
    assert (words[1].word, words[1].more_seeds) == ("undecided", 1)
    assert words[1].may_be_won
    assert words[2].word == "same"


def test_the_two_may_change_places() -> None:
    runs = runs_at(0.991, 0.9999, ["Memorize"])
    one, other = (compare(runs, *pair, preset="full", noise=QUIET) for pair in ("ab", "ba"))
    assert of(one, "Memorize").no_room == of(other, "Memorize").no_room == "both"
    assert of(one, "Memorize").low == pytest.approx(-(of(other, "Memorize").high or 0))


def test_one_seed_below_the_ceiling_is_tested_as_ever() -> None:
    runs = runs_at(1.0, 1.0, ["Memorize"], seeds=(0, 1, 2))
    runs = [replace(run, held_out=0.97) if run.key.startswith("b/Memorize 0/1") else run for run in runs]
    found = of(compare(runs, "a", "b", preset="full", noise=LOUD), "Memorize")
    assert (found.no_room, found.word) == ("", "undecided")


def test_below_a_reference_at_the_ceiling_worse_can_still_be_said_and_better_cannot() -> None:
    runs = runs_at(0.9, 0.995, ["Memorize"])
    quiet, loud = (of(compare(runs, "a", "b", preset="full", noise=n), "Memorize") for n in (QUIET, LOUD))
    assert (quiet.word, quiet.no_room) == ("worse", "above")
    assert (loud.word, loud.no_room) == ("undecided", "above")
    assert loud.high == pytest.approx(0.005)
    assert (loud.low or 0) < -0.2


def test_at_the_ceiling_a_rule_cannot_be_worse_by_more_than_the_margin() -> None:
    runs = runs_at(0.995, 0.9, ["Memorize"])
    quiet, loud = (of(compare(runs, *"ab", preset="full", noise=n), "Memorize") for n in (QUIET, LOUD))
    assert (quiet.word, quiet.no_room) == ("better", "")
    assert (loud.word, loud.low) == ("undecided", pytest.approx(-0.005))


def test_a_setting_beyond_reach_does_not_widen_what_is_possible() -> None:
    runs = make_runs(
        "ab", lambda rule, task, setting, _: 0.996 if setting.endswith("0") else 0.4, settings=2, seeds=(0,)
    )
    exact = [f"{task} 1" for task in TASKS]
    found = of(compare(runs, "a", "b", preset="full", noise=LOUD, exact_settings=exact), "Compress")
    assert (found.no_room, found.word, found.exact_settings) == ("both", "undecided", 1)
    assert (found.low, found.high) == pytest.approx((-0.002, 0.002))


def test_the_mean_takes_no_noise_from_tasks_at_the_ceiling() -> None:
    """Five tasks are solved by both under a loud noise floor; the sixth is quiet and decides the mean."""
    floors = {**LOUD, "Compress": QUIET["Compress"]}
    full = [task for task in TASKS if task != "Compress"]
    runs = make_runs(
        "ab", lambda rule, task, *_: 0.999 if task in full else 0.5 + 0.2 * (rule == "a"), seeds=(0,)
    )
    mean = compare(runs, "a", "b", preset="full", noise=floors).mean
    assert mean.difference == pytest.approx(0.2 / 6)
    assert mean.word == "better"
    assert (mean.high or 1) - (mean.low or 0) < 0.001


def test_the_mean_keeps_the_seeds_of_the_tasks_that_are_open() -> None:
    """Tasks at the ceiling are trained no further; the mean still has all seeds of the others."""
    runs = runs_at(0.999, 0.999, TASKS[1:], seeds=(0, 1, 2))
    runs = [run for run in runs if run.task == "Compress" or run.seed == 0]
    mean = compare(runs, "a", "b", preset="full", noise=LOUD).mean
    assert (mean.seeds, mean.no_room) == (3, "")


@pytest.mark.parametrize(("seeds", "word"), [(1, "undecided"), (11, "same")])
def test_all_tasks_at_the_ceiling_leave_the_mean_no_room(seeds: int, word: str) -> None:
    mean = compare(runs_at(0.9991, 0.9997, TASKS, range(seeds)), "a", "b", preset="full", noise=LOUD).mean
    assert (mean.word, mean.no_room) == (word, "both")
    assert (mean.low, mean.high) == pytest.approx((-0.0009, 0.0003))


@pytest.mark.parametrize("interval", ["resampled", "resampled over settings"])
def test_resampling_leaves_what_is_possible_alone(interval: str) -> None:
    runs = runs_at(0.9991, 0.9997, ["Memorize"], seeds=(0, 1, 2))
    found = compare(runs, "a", "b", preset="full", noise=LOUD, interval=interval)  # type: ignore[arg-type]
    line = of(found, "Memorize")
    assert (line.low, line.high) == pytest.approx((-0.0009, 0.0003))
    assert found.mean.low is not None


def test_the_claim_of_all_six_is_said_to_be_out_of_reach() -> None:
    full = ["Memorize", "Noisy Recall"]
    found = compare(runs_at(0.9, 0.995, full), "a", "b", preset="full", noise=LOUD)
    said = headline(found)
    assert "cannot be reached under full" in said
    assert "b is within the margin of 1 on Memorize and Noisy Recall" in said
    assert "no room on 2 of 6 tasks" in said
    other = compare(runs_at(0.9, 0.98, full), "a", "b", preset="full", noise=LOUD)
    assert "cannot be reached" not in headline(other)


def test_no_seed_is_spent_where_there_is_no_room() -> None:
    asked: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def measure(seeds: tuple[int, ...], tasks: tuple[str, ...]) -> list[RunRecord]:
        asked.append((seeds, tasks))
        every = runs_at(0.9991, 0.9997, ["Memorize", "Selective Copy"], seeds=seeds)
        return [run for run in every if run.task in tasks]

    state = decide_sequentially(measure, "a", "b", preset="full", policy=UntilDecided((1, 2, 3)), noise=LOUD)
    assert state.comparison is not None
    assert asked[0] == ((0,), TASKS)
    rest = tuple(task for task in TASKS if task not in ("Memorize", "Selective Copy"))
    assert asked[1:] == [((1,), rest), ((2,), rest)]
    assert of(state.comparison, "Memorize").seeds == 1
    assert of(state.comparison, "Memorize").word == "undecided"
    assert [one.decided for one in state.comparison.looks] == [()] * 3
    assert "no seed is added for that" in state.comparison.method
    assert state.stopped == "looks used up"


@pytest.mark.parametrize(
    ("looks", "stopped", "seeds"), [((1, 2, 8), "no room", 1), ((5, 8, 13), "decided", 13)]
)
def test_seeds_are_added_at_the_ceiling_only_by_a_plan_that_can_decide_there(
    looks: tuple[int, ...], stopped: str, seeds: int
) -> None:
    def measure(following: tuple[int, ...], tasks: tuple[str, ...]) -> list[RunRecord]:
        return [run for run in runs_at(0.9991, 0.9997, TASKS, following) if run.task in tasks]

    state = decide_sequentially(measure, "a", "b", preset="full", policy=UntilDecided(looks), noise=LOUD)
    assert state.comparison is not None
    assert state.stopped == stopped
    assert {task.seeds for task in state.comparison.tasks} == {seeds}
    assert {task.word for task in state.comparison.tasks} == {"same" if seeds > 11 else "undecided"}


# Epochs until solved


def point(epoch: int, validation: float, test: float) -> CurvePoint:
    return CurvePoint(epoch, None, 0.1, validation, 0.1, test)


def run_of(preset: str = "baseline", **changes: object) -> RunRecord:
    run = make_run("a", "Memorize", "m", 0, 0.9, preset=preset)
    return replace(run, **changes)  # type: ignore[arg-type]


def test_a_curve_says_when_a_run_solved_its_task() -> None:
    curve = (point(1, 0.9995, 0.99), point(2, 0.99, 0.9999), point(3, 0.9991, 0.9992))
    assert solved_after(run_of(curve=curve, epochs=3)) == 3
    assert solved_after(run_of(curve=curve[:2], epochs=2)) is None
    strict = {"recipe": {"stop_accuracy": 0.9995, "epochs": 200}}
    assert solved_after(run_of(curve=curve, epochs=3, effective=strict)) is None


def test_without_a_curve_an_early_end_says_so() -> None:
    last = PRESETS["baseline"].epochs
    assert solved_after(run_of(epochs=9)) == 9
    assert solved_after(run_of("baseline-cosine", epochs=9)) == 9
    assert solved_after(run_of(epochs=last)) is None
    assert solved_after(run_of(epochs=last, held_out=0.9993, validation=0.9991)) == last
    assert solved_after(run_of("of one's own", epochs=9)) is None
    assert solved_after(run_of("of one's own", epochs=9, effective={"recipe": {"epochs": 12}})) == 9


@pytest.mark.parametrize("status", ["dropped", "diverged", "crashed"])
def test_what_did_not_finish_solved_nothing(status: str) -> None:
    assert solved_after(run_of(epochs=9, status=status)) is None


def test_epochs_are_those_of_the_run_that_validation_chose() -> None:
    """The grid point that was ahead on validation, not the one that was there first."""
    first = run_of(key="first", learning_rate=1e-3, epochs=5, validation=0.9990, held_out=0.9990)
    best = run_of(key="best", learning_rate=5e-4, epochs=9, validation=0.9999, held_out=0.9999)
    never = run_of(key="never", seed=1, epochs=200)
    cells = Cells([first, best, never], "baseline")
    assert cells.epochs_until_solved("a", "Memorize") == (9, None)
    assert cells.without_room("a") == ()
    assert Cells([first, best], "baseline").without_room("a") == ("Memorize",)
