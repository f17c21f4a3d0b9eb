"""Comparisons of made-up runs: pairing, grid choice, reach, failures, and the one word."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.judge.runs import make_run, make_runs, noisy

from archer.errors import UserError
from archer.judge import NoiseFloor, compare
from archer.judge.cells import choose
from archer.ledger.records import TASKS, Comparison, RunRecord, TaskComparison

QUIET = {task: NoiseFloor(task, 0.01, 20, "made up", 1, 0.01, heterogeneity=100.0) for task in TASKS}


def of(comparison: Comparison, task: str) -> TaskComparison:
    return next(one for one in comparison.tasks if one.task == task)


def edit(runs: list[RunRecord], rule: str, task: str, seed: int, **changes: object) -> list[RunRecord]:
    return [
        replace(run, **changes) if (run.rule, run.task, run.seed) == (rule, task, seed) else run
        for run in runs
    ]  # type: ignore[arg-type]


def test_difference_interval_and_p_are_those_of_the_paired_t_test_without_known_noise() -> None:
    scores = {("a", 0): 0.50, ("a", 1): 0.56, ("a", 2): 0.53, ("b", 0): 0.41, ("b", 1): 0.43, ("b", 2): 0.45}
    runs = make_runs("ab", lambda rule, task, setting, seed: scores[rule, seed])
    found = of(compare(runs, "a", "b", preset="full", noise={}), "Memorize")
    test = stats.ttest_rel([0.50, 0.56, 0.53], [0.41, 0.43, 0.45])
    assert found.difference == pytest.approx(0.1)
    assert found.p_value == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))
    assert (found.candidate, found.baseline) == pytest.approx((0.53, 0.43))
    assert (found.settings, found.seeds) == (1, 3)


def test_settings_are_averaged_within_a_seed_before_seeds_are_compared() -> None:
    runs = make_runs(
        "ab",
        lambda rule, task, setting, seed: (
            0.5 + (rule == "a") * (0.1 * seed if setting.endswith("0") else 0.0)
        ),
        settings=2,
    )
    found = of(compare(runs, "a", "b", preset="full", noise={}), "Compress")
    test = stats.ttest_1samp([0.0, 0.05, 0.1], 0.0)
    assert found.difference == pytest.approx(0.05)
    assert found.p_value == pytest.approx(test.pvalue)


def test_with_one_seed_the_mean_has_the_known_noise_of_six_tasks() -> None:
    """The variances of six sums of independent noise add, over six squared; so do the weights (Welch)."""
    runs = make_runs("ab", lambda rule, *_: 0.52 if rule == "a" else 0.5, seeds=(0,))
    found = compare(runs, "a", "b", preset="full", noise=QUIET).mean
    weight = QUIET["Memorize"].weight()
    half = stats.t.isf(0.025, 6 * weight) * 0.01 * math.sqrt(2 / 6)
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half))


def test_one_seed_without_any_notion_of_noise_is_undecided() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1, seeds=(0,))
    result = compare(runs, "a", "b", preset="full", noise={})
    assert {one.word for one in result.tasks} == {"undecided"}
    assert of(result, "Compress").difference == pytest.approx(0.8)
    assert of(result, "Compress").low is None
    assert "noise" in of(result, "Compress").missing[-1]
    assert not result.beats_on_all


def test_one_seed_is_judged_by_the_known_noise() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.6 if rule == "a" else 0.5, seeds=(0,))
    result = compare(runs, "a", "b", preset="full", noise=QUIET)
    assert result.beats_on_all
    assert {one.word for one in (*result.tasks, result.mean)} == {"better"}
    assert {one.word for one in compare(runs, "b", "a", preset="full", noise=QUIET).tasks} == {"worse"}


def test_all_six_must_be_better() -> None:
    runs = make_runs("ab", lambda rule, task, *_: 0.6 if rule == "a" and task != "Memorize" else 0.5)
    result = compare(runs, "a", "b", preset="full", noise=QUIET)
    assert [one.word for one in result.tasks].count("better") == 5
    assert not result.beats_on_all


def test_holm_makes_the_first_of_six_stricter() -> None:
    runs = make_runs(
        "ab", lambda rule, task, *_: 0.535 if rule == "a" and task == "Memorize" else 0.5, seeds=(0,)
    )
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize")
    assert found.p_value is not None
    assert found.p_value < 0.05
    assert found.p_adjusted == pytest.approx(6 * found.p_value)
    assert found.word == "undecided"
    assert found.more_seeds is not None


def test_the_same_within_the_margin() -> None:
    tight = {task: replace(floor, cell_sd=0.001) for task, floor in QUIET.items()}
    runs = make_runs("ab", lambda rule, *_: 0.501 if rule == "a" else 0.5)
    assert {one.word for one in compare(runs, "a", "b", preset="full", noise=tight).tasks} == {"same"}
    narrow = compare(runs, "a", "b", preset="full", noise=tight, margin=0.0005)
    assert {one.word for one in narrow.tasks} == {"undecided"}


def test_a_rule_is_the_same_as_itself_and_as_its_copy() -> None:
    runs = make_runs("ab", noisy({"a": 0.5, "b": 0.5}, 0.05))
    itself = compare(runs, "a", "a", preset="full")
    copies = [replace(run, rule_hash="one hash") for run in runs]
    for result in (itself, compare(copies, "a", "b", preset="full")):
        for one in (*result.tasks, result.mean):
            assert (one.difference, one.low, one.high, one.word) == (0.0, 0.0, 0.0, "same")
        assert not result.beats_on_all


def test_exact_settings_count_as_zero_whatever_was_measured_there() -> None:
    score = noisy({"a": 0.5, "b": 0.5}, 0.05)
    runs = make_runs("ab", score, settings=4)
    runs = [
        replace(run, held_out=0.4 + 0.2 * (run.rule == "a")) if run.setting.endswith("3") else run
        for run in runs
    ]
    exact = {f"{task} {index}" for task in TASKS for index in range(3)}
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET, exact_settings=exact), "Memorize")
    assert found.difference == pytest.approx(0.2 / 4)
    assert (found.settings, found.exact_settings) == (4, 3)
    assert found.candidate is not None
    assert found.baseline is not None
    assert found.candidate - found.baseline == pytest.approx(0.2 / 4)


def test_exact_settings_need_no_training_of_the_candidate() -> None:
    runs = [
        run
        for run in make_runs("ab", noisy({"a": 0.5, "b": 0.5}, 0.05), settings=2)
        if run.rule == "b" or run.task != "Memorize"
    ]
    found = of(
        compare(runs, "a", "b", preset="full", exact_settings={"Memorize 0", "Memorize 1"}), "Memorize"
    )
    assert (found.difference, found.low, found.high, found.word) == (0.0, 0.0, 0.0, "same")
    assert found.candidate == found.baseline
    assert found.exact_settings == 2


def test_a_wholly_exact_rule_needs_no_run_at_all() -> None:
    runs = make_runs("b", noisy({"b": 0.5}, 0.05))
    result = compare(runs, "a", "b", preset="full", exact_settings={f"{task} 0" for task in TASKS})
    assert {one.word for one in (*result.tasks, result.mean)} == {"same"}
    with pytest.raises(UserError, match="'a'"):
        compare(runs, "a", "b", preset="full", exact_settings={"Memorize 0"})


def test_exact_settings_shrink_the_known_noise_too() -> None:
    floor = QUIET["Memorize"]
    assert floor.difference_variance(3, 11) == pytest.approx(2 * 0.01**2 * 3 / 121)


@pytest.mark.parametrize("status", ["diverged", "crashed"])
def test_a_failed_cell_is_shown_and_never_better(status: str) -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1)
    runs = edit(runs, "a", "Memorize", 1, status=status, held_out=None, validation=None, mad=None)
    result = compare(runs, "a", "b", preset="full", noise=QUIET)
    found = of(result, "Memorize")
    assert (found.candidate, found.difference, found.word) == (None, None, "undecided")
    assert found.baseline == pytest.approx(0.1)
    assert any(status in note and "Memorize 0, seed 1" in note for note in found.missing)
    assert of(result, "Compress").word == "better"
    assert result.mean.difference is None
    assert result.mean.missing[0].startswith("Memorize: a on Memorize, Memorize 0, seed 1: no score")
    assert not result.beats_on_all


def test_a_failed_seed_counts_even_where_the_other_rule_lacks_the_seed() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1)
    runs = [run for run in runs if not (run.rule == "b" and run.seed == 2)]
    runs = edit(runs, "a", "Memorize", 2, status="diverged", held_out=None, validation=None)
    assert of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize").word == "undecided"


def test_nan_never_wins() -> None:
    runs = make_runs("ab", lambda rule, *_: math.nan if rule == "a" else 0.1)
    result = compare(runs, "a", "b", preset="full", noise=QUIET)
    assert {one.word for one in (*result.tasks, result.mean)} == {"undecided"}
    assert all(one.candidate is None for one in result.tasks)
    grid = [
        make_run("a", "Memorize", "s", 0, math.nan, validation=1.0),
        make_run("a", "Memorize", "s", 0, 0.3),
    ]
    assert choose(("a", "Memorize", "s", 0), grid).score == 0.3
    nan_validation = make_run("a", "Memorize", "s", 0, 1.0, validation=math.nan)
    assert choose(("a", "Memorize", "s", 0), [nan_validation, *grid]).score == 0.3


def test_what_a_race_dropped_is_no_failure() -> None:
    place = ("a", "Memorize", "s", 0)
    dropped = make_run(*place, None, learning_rate=1e-4, status="dropped")
    crashed = make_run(*place, None, learning_rate=5e-4, status="crashed")
    chosen = choose(place, [dropped, crashed, make_run(*place, 0.3)])
    assert (chosen.state, chosen.score) == ("scored", 0.3)
    assert chosen.failures == ("crashed at learning rate 0.0005, weight decay 0",)
    alone = choose(place, [dropped])
    assert (alone.state, alone.score) == ("missing", None)
    assert alone.failures == ("dropped at learning rate 0.0001, weight decay 0",)
    failed = choose(place, [dropped, crashed])
    assert (failed.state, failed.score) == ("failed", None)


def test_a_seed_whose_common_grid_point_a_race_dropped_does_not_count() -> None:
    """Of two rules with different grids the only common point may be one that the race of the one dropped:
    neither has failed there."""
    runs = make_runs("ab", lambda rule, *_: 0.6 if rule == "a" else 0.5)
    runs = [
        replace(run, key=f"{run.key}x", learning_rate=1e-4, status="dropped", held_out=None, validation=None)
        if (run.rule, run.task, run.seed) == ("a", "Memorize", 0)
        else run
        for run in runs
    ] + [
        replace(run, key=f"{run.key}y", learning_rate=lr)
        for run in runs
        if (run.task, run.seed) == ("Memorize", 0)
        for lr in ([3e-4] if run.rule == "a" else [1e-4])
    ]
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize")
    assert (found.seeds, found.difference) == (2, pytest.approx(0.1))
    assert any(
        "dropped at learning rate 0.0001" in note and "does not count" in note for note in found.missing
    )


@pytest.mark.filterwarnings("error")
def test_one_function_without_a_single_score_has_none_and_warns_of_nothing() -> None:
    runs = [
        replace(run, rule_hash="one", status="diverged", held_out=None, validation=None)
        for run in make_runs("ab", lambda *_: 0.5)
    ]
    result = compare(runs, "a", "b", preset="full", noise=QUIET)
    assert {one.candidate for one in (*result.tasks, result.mean)} == {None}


def test_the_scores_of_the_mean_differ_by_its_difference() -> None:
    """Where tasks have different seeds the mean is of those that all have, and so are its scores."""
    runs = make_runs("ab", noisy({"a": 0.6, "b": 0.5}, 0.05), seeds=range(3))
    runs += make_runs(
        "ab", noisy({"a": 0.9, "b": 0.1}, 0.05), seeds=range(3, 8), tasks=("Memorize", "Compress")
    )
    mean = compare(runs, "a", "b", preset="full").mean
    assert mean.seeds == 3
    assert mean.candidate is not None
    assert mean.baseline is not None
    assert mean.candidate - mean.baseline == pytest.approx(mean.difference)


def test_a_diverged_grid_point_is_noted_and_the_best_other_counts() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.6 if rule == "a" else 0.5)
    for rule in "ab":
        runs.append(
            make_run(
                rule,
                "Memorize",
                "Memorize 0",
                0,
                None,
                learning_rate=1e-1,
                status="diverged",
                validation=None,
            )
        )
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize")
    assert found.difference == pytest.approx(0.1)
    assert any("diverged at learning rate 0.1" in note for note in found.missing)


def test_validation_chooses_the_grid_point_and_test_scores_it() -> None:
    grid = [
        make_run("a", "Memorize", "s", 0, 0.9, validation=0.5, learning_rate=1e-4),
        make_run("a", "Memorize", "s", 0, 0.4, validation=0.8, learning_rate=5e-4),
        make_run("a", "Memorize", "s", 0, 0.7, validation=0.8, learning_rate=1e-3),
    ]
    for order in (grid, grid[::-1]):
        assert choose(("a", "Memorize", "s", 0), order).score == 0.4


def test_only_grid_points_of_both_rules_count() -> None:
    runs = make_runs("ab", lambda *_: 0.5)
    runs.append(make_run("a", "Memorize", "Memorize 0", 0, 0.99, learning_rate=1e-4))
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize")
    assert found.difference == 0.0
    assert any("grids" in note for note in found.missing)


def test_a_seed_without_all_settings_is_left_out_and_named() -> None:
    runs = make_runs("ab", noisy({"a": 0.6, "b": 0.5}, 0.01), settings=2)
    runs = [run for run in runs if not (run.rule == "a" and run.setting == "Memorize 1" and run.seed == 2)]
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize")
    assert found.seeds == 2
    assert any("a on Memorize, Memorize 1, seed 2: not trained" in note for note in found.missing)


def test_seeds_that_one_rule_lacks_are_named_together() -> None:
    runs = make_runs("ab", noisy({"a": 0.6, "b": 0.5}, 0.01), seeds=range(7))
    runs = [run for run in runs if run.rule != "a" or run.seed in (0, 4)]
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize")
    assert "a on Memorize: seeds 1 to 3, 5 to 6 not trained" in found.missing
    runs = [run for run in runs if run.rule != "b" or run.seed in (0, 3, 4)]
    found = of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize")
    assert "a on Memorize: seed 3 not trained" in found.missing


def test_a_task_without_runs_is_undecided_and_says_so() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.6 if rule == "a" else 0.5, tasks=TASKS[:3])
    result = compare(runs, "a", "b", preset="full", noise=QUIET)
    assert [one.task for one in result.tasks] == list(TASKS)
    assert of(result, "Selective Copy").word == "undecided"
    assert of(result, "Selective Copy").missing
    assert result.mean.difference is None
    assert not result.beats_on_all


def test_presets_do_not_mix() -> None:
    runs = make_runs("ab", lambda *_: 0.5) + make_runs("ab", lambda rule, *_: 0.9, preset="quick")
    assert of(compare(runs, "a", "b", preset="full"), "Memorize").candidate == pytest.approx(0.5)


def test_two_functions_under_one_name_are_refused() -> None:
    runs = make_runs("ab", lambda *_: 0.5)
    runs.append(make_run("a", "Memorize", "Memorize 0", 9, 0.5, rule_hash="another"))
    with pytest.raises(UserError, match="two rule files"):
        compare(runs, "a", "b", preset="full")


def test_an_unknown_rule_gets_the_nearest_name() -> None:
    runs = make_runs(["delta_net", "softmax"], lambda *_: 0.5)
    with pytest.raises(UserError, match="did you mean 'softmax'"):
        compare(runs, "softmx", "delta_net", preset="full")


def test_the_latest_of_repeated_records_counts() -> None:
    runs = make_runs("ab", lambda *_: 0.5, seeds=(0,))
    runs.insert(0, make_run("a", "Memorize", "Memorize 0", 0, 0.7, finished_at="2026-02-01T00:00:00+00:00"))
    assert of(compare(runs, "a", "b", preset="full", noise=QUIET), "Memorize").candidate == 0.7


@pytest.mark.parametrize("status", ["crashed", "dropped"])
def test_what_is_no_result_displaces_none(status: str) -> None:
    """A run of newer training code that crashed, or that a race dropped, has another key than the result."""
    runs = make_runs("ab", lambda *_: 0.5, seeds=(0,))
    later = "2026-02-01T00:00:00+00:00"
    again = make_run("a", "Memorize", "Memorize 0", 0, None, status=status, finished_at=later)
    found = of(compare([*runs, again], "a", "b", preset="full", noise=QUIET), "Memorize")
    assert (found.candidate, found.missing) == (0.5, ())
    diverged = make_run("a", "Memorize", "Memorize 0", 0, None, status="diverged", finished_at=later)
    found = of(compare([*runs, diverged], "a", "b", preset="full", noise=QUIET), "Memorize")
    assert (found.candidate, found.difference) == (None, None)


def test_chosen_seeds_alone_count() -> None:
    runs = make_runs("ab", lambda rule, task, setting, seed: 0.5 + (rule == "a") * 0.1 * seed)
    assert of(compare(runs, "a", "b", preset="full", noise=QUIET, seeds=[0, 1]), "Memorize").seeds == 2


def test_the_two_rules_do_not_vouch_for_their_own_noise() -> None:
    others = make_runs("cdef", noisy(dict.fromkeys("cdef", 0.5), 0.02, 1), seeds=range(5))
    quiet = make_runs("ab", lambda *_: 0.5, seeds=(0,))
    loud = make_runs("ab", noisy(dict.fromkeys("ab", 0.5), 0.3, 2), seeds=(1, 2, 3))
    one = of(compare(others + quiet, "a", "b", preset="full", seeds=[0]), "Memorize")
    two = of(compare(others + quiet + loud, "a", "b", preset="full", seeds=[0]), "Memorize")
    assert (one.low, one.high) == (two.low, two.high)


def test_resampled_intervals_are_offered_beside_and_do_not_move_the_words() -> None:
    runs = make_runs("ab", noisy({"a": 0.55, "b": 0.5}, 0.02), settings=3, seeds=range(5))
    usual = compare(runs, "a", "b", preset="full")
    other = compare(runs, "a", "b", preset="full", interval="resampled", seed=3)
    again = compare(runs, "a", "b", preset="full", interval="resampled", seed=3)
    assert other == again
    assert [one.word for one in usual.tasks] == [one.word for one in other.tasks]
    for one in (*other.tasks, other.mean):
        assert one.low is not None
        assert one.high is not None
        assert one.low < (one.difference or 0) < one.high
    single = compare(runs, "a", "b", preset="full", interval="resampled", seeds=[0])
    assert all(one.low is None for one in single.tasks)


SCORES = st.lists(st.floats(0, 1), min_size=36, max_size=36)


@given(SCORES, st.integers(1, 3), st.sets(st.sampled_from([f"{task} 0" for task in TASKS])))
@settings(max_examples=40, deadline=None)
def test_swapping_the_rules_swaps_the_sign(scores: list[float], seeds: int, exact: set[str]) -> None:
    values = iter(scores)
    runs = make_runs("ab", lambda *_: next(values), seeds=range(seeds))
    forth = compare(runs, "a", "b", preset="full", exact_settings=exact)
    back = compare(runs, "b", "a", preset="full", exact_settings=exact)
    swapped = {"better": "worse", "worse": "better"}
    for one, other in zip((*forth.tasks, forth.mean), (*back.tasks, back.mean), strict=True):
        assert one.difference == pytest.approx(-other.difference)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
        assert one.p_adjusted == pytest.approx(other.p_adjusted)
        assert other.word == swapped.get(one.word, one.word)
        assert (one.candidate, one.baseline) == pytest.approx((other.baseline, other.candidate))


@given(SCORES, st.randoms())
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_runs_does_not_matter(scores: list[float], random: object) -> None:
    values = iter(scores)
    runs = make_runs("ab", lambda *_: next(values))
    mixed = list(runs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert compare(runs, "a", "b", preset="full") == compare(mixed, "a", "b", preset="full")


def test_the_mean_is_the_mean_of_the_tasks() -> None:
    runs = make_runs("ab", noisy({"a": 0.55, "b": 0.5}, 0.02), settings=2)
    result = compare(runs, "a", "b", preset="full")
    assert result.mean.difference == pytest.approx(np.mean([one.difference for one in result.tasks]))
    assert result.mean.candidate == pytest.approx(np.mean([one.candidate for one in result.tasks]))
    assert result.mean.task == "Mean"


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"margin": 0.0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError):
        compare(make_runs("ab", lambda *_: 0.5), "a", "b", preset="full", **options)  # type: ignore[arg-type]
