"""The arithmetic against scipy, statsmodels and itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from archer.judge import statistics
from archer.judge.ceiling import FAILING, SURE_SEEDS, UNSEEN
from archer.judge.simulate import _variance_below

P_VALUES = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=8)


@given(P_VALUES)
@settings(max_examples=12, deadline=None)
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(statistics.holm(p_values), expected)


def test_holm_works_on_the_last_axis_and_counts_the_missing() -> None:
    adjusted = statistics.holm([[0.01, np.nan, 0.02], [0.5, 0.001, 0.03]])
    np.testing.assert_allclose(adjusted, [[0.03, np.nan, 0.04], [0.5, 0.003, 0.06]])


def evidence_of(
    values: list[float], prior_variance: float = np.nan, prior_df: float = 0
) -> statistics.Evidence:
    spread = np.var(values, ddof=1) if len(values) > 1 else 0.0
    return statistics.evidence(np.mean(values), spread, len(values), prior_variance, prior_df)


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=10))
@settings(max_examples=50)
def test_without_a_prior_it_is_the_paired_t_test(values: list[float]) -> None:
    if np.std(values, ddof=1) < 2 * statistics.RESOLUTION:
        return
    known = evidence_of(values)
    moderated = statistics.moderate(known)
    error = statistics.standard_error(known, moderated)
    test = stats.ttest_1samp(values, 0.0)
    p_value = statistics.two_sided_p(known.difference, error, moderated.degrees_of_freedom)
    assert p_value == pytest.approx(test.pvalue)
    low, high = statistics.interval(known.difference, error, moderated.degrees_of_freedom, 0.95)
    assert (low, high) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_equivalence_is_the_two_one_sided_tests_of_statsmodels() -> None:
    values = [0.002, -0.003, 0.004, 0.001]
    known = evidence_of(values)
    moderated = statistics.moderate(known)
    error = statistics.standard_error(known, moderated)
    ours = statistics.equivalence_p(known.difference, error, moderated.degrees_of_freedom, 0.01)
    theirs = ttost_paired(np.asarray(values), np.zeros(4), -0.01, 0.01)[0]
    assert ours == pytest.approx(theirs)


def test_a_prior_is_weighted_by_its_degrees_of_freedom() -> None:
    moderated = statistics.moderate(evidence_of([0.01, 0.03, 0.05], prior_variance=0.0009, prior_df=6))
    assert moderated.variance == pytest.approx((2 * 0.0004 + 6 * 0.0009) / 8)
    assert moderated.degrees_of_freedom == 8


def test_noise_far_above_the_known_is_not_talked_down() -> None:
    wild = evidence_of([-0.5, 0.5, 0.4], prior_variance=1e-4, prior_df=10)
    moderated = statistics.moderate(wild)
    assert moderated.variance == pytest.approx(np.var([-0.5, 0.5, 0.4], ddof=1))
    assert moderated.degrees_of_freedom == 2


def test_one_seed_and_nothing_known_has_no_error() -> None:
    alone = evidence_of([0.3])
    assert np.isnan(statistics.standard_error(alone, statistics.moderate(alone)))
    assert statistics.more_seeds(alone, 0.01, 0.05, 6) is None


@pytest.mark.parametrize("family", [1, 6])
def test_more_seeds_is_enough_and_no_more(family: int) -> None:
    """The hardest step of Holm is what has to be reached in a family."""
    known = evidence_of([0.02, 0.04], prior_variance=0.0008, prior_df=4)
    extra = statistics.more_seeds(known, 0.01, 0.05, family)
    assert extra is not None
    variance = float(statistics.moderate(known).variance)

    def chance(more: int) -> float:
        """Of p below 0.05 / family, were the mean and variance true (the estimate's own approximation)."""
        freedom = 5 + more
        needed = stats.t.isf(0.025 / family, freedom)
        return stats.t.sf(needed - 0.03 / np.sqrt(variance / (2 + more)), freedom)

    assert chance(extra) >= 0.8
    assert extra == 1 or chance(extra - 1) < 0.8


def test_words_prefer_a_certain_tiny_difference_to_equivalence() -> None:
    found = statistics.words(
        np.asarray([0.002, -0.002, 0.002, np.nan]),
        np.asarray([0.01, 0.01, 0.5, np.nan]),
        np.asarray([0.01, 0.01, 0.01, np.nan]),
        0.05,
        np.asarray(3),
    )
    assert found.tolist() == ["better", "worse", "same", "undecided"]


def test_where_the_ceiling_leaves_no_room_a_certain_difference_is_no_win() -> None:
    certain, unequal = np.asarray(0.001), np.asarray(0.9)

    def word(difference: float, possible: tuple[float, float], seeds: int = 3) -> str:
        found = statistics.words(np.asarray(difference), certain, unequal, 0.05, np.asarray(seeds), possible)
        return str(found)

    assert word(0.004, statistics.ANYTHING) == "better"
    assert word(0.004, (-np.inf, 0.009)) == "undecided"
    assert word(-0.004, (-np.inf, 0.009)) == "worse"
    assert word(-0.004, (-0.009, np.inf)) == "undecided"
    assert word(0.004, (-0.009, 0.009)) == "undecided"
    assert word(0.004, (-0.009, 0.009), seeds=SURE_SEEDS) == "same"


@pytest.mark.parametrize(
    ("possible", "fewest"),
    [
        (statistics.ANYTHING, 2),
        ((-np.inf, 0.009), SURE_SEEDS),
        ((-0.009, np.inf), SURE_SEEDS),
        ((-0.009, 0.009), SURE_SEEDS),
    ],
)
def test_the_same_needs_seeds(possible: tuple[float, float], fewest: int) -> None:
    """One says nothing of their own noise; at the ceiling a rule that fails now and then looks alike."""
    equal = np.asarray(0.001)
    found = [
        str(statistics.words(np.asarray(0.0), np.asarray(1.0), equal, 0.05, np.asarray(seeds), possible))
        for seeds in (fewest - 1, fewest)
    ]
    assert found == ["undecided", "same"]


def test_so_many_seeds_at_the_ceiling_as_show_a_rule_that_fails_one_in_four() -> None:
    assert (1 - FAILING) ** SURE_SEEDS <= UNSEEN < (1 - FAILING) ** (SURE_SEEDS - 1)
    assert SURE_SEEDS == 11


def test_an_interval_ends_where_the_room_does() -> None:
    low, high = np.asarray([-0.1, -0.1, -0.1]), np.asarray([0.1, 0.1, 0.1])
    possible = np.asarray([-np.inf, -np.inf, -0.002]), np.asarray([np.inf, 0.004, 0.004])
    found = statistics.within(low, high, possible)
    np.testing.assert_allclose(found[0], [-0.1, -0.1, -0.002])
    np.testing.assert_allclose(found[1], [0.1, 0.004, 0.004])


def test_no_interval_reaches_beyond_what_scores_can_differ_by() -> None:
    low, high = statistics.within(np.array([-1.4, -0.2]), np.array([1.7, 0.3]), statistics.ANYTHING)
    assert low.tolist() == [-1.0, -0.2]
    assert high.tolist() == [1.0, 0.3]


def test_noise_below_a_ceiling_is_what_draws_show() -> None:
    draws = np.random.default_rng(5).normal(0, 0.02, 400_000)
    for room in (0.0, 0.005, 0.03, 1.0):
        shown = np.var(np.minimum(draws, room))
        assert _variance_below(np.asarray(room), np.asarray(0.02)) == pytest.approx(shown, rel=0.01)


def test_every_comparison_is_judged_by_its_own_degrees_of_freedom() -> None:
    own, prior = (
        np.asarray([[1.0, 2.0, 2.0], [7.0, 1.0, 2.0]]),
        np.asarray([[4.0, 6.5, 4.0], [1e-9, 6.5, 3.0]]),
    )
    np.testing.assert_array_equal(
        statistics._limits(own, prior), stats.f.isf(statistics.OUTLYING, own, prior)
    )
    freedom = own + prior
    low, high = statistics.interval(np.zeros(()), np.ones(()), freedom, 0.95)
    np.testing.assert_array_equal(high, stats.t.isf((1 - 0.95) / 2, freedom))
    np.testing.assert_array_equal(low, -high)


def test_more_seeds_for_the_same_count_misses_to_either_side() -> None:
    """With no difference at all, equivalence can be missed above and below."""
    deviation, have, margin = 0.006, 2, 0.01
    known = statistics.evidence(0.0, deviation**2, have, deviation**2, 30.0)
    extra = statistics.more_seeds(known, margin, 0.05, 6)
    assert extra is not None
    for seeds, enough in ((have + extra, True), (have + extra - 1, False)):
        values = np.random.default_rng(1).normal(0, deviation, (seeds, 40_000))
        drawn = statistics.evidence(values.mean(0), values.var(0, ddof=1), seeds, deviation**2, 30.0)
        pooled = statistics.moderate(drawn)
        error = statistics.standard_error(drawn, pooled)
        equal = statistics.equivalence_p(drawn.difference, error, pooled.degrees_of_freedom, margin)
        assert (np.mean(equal <= 0.05) >= 0.79) == enough
