"""Predictions scored against outcomes, and what a record of them asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from archer.errors import UserError
from archer.judge import score_predictions, standings, track_record, widen, widening
from archer.judge.predictions import MOST_WORTH, PRIOR_PREDICTIONS, TrackRow, Z, crps
from archer.ledger.records import (
    Comparison,
    Prediction,
    PredictionScore,
    ProposalRecord,
    TaskComparison,
    VerdictRecord,
)

UNIT = st.floats(0, 1)


def integrated(prediction: Prediction, measured: float) -> float:
    """The definition, by quadrature."""

    def below(x: float) -> float:
        half = (
            prediction.score - prediction.low if x < prediction.score else prediction.high - prediction.score
        )
        return float(stats.norm.cdf((x - prediction.score) * Z / half))

    points = sorted({prediction.score, measured})
    return integrate.quad(lambda x: (below(x) - (x >= measured)) ** 2, 0, 1, points=points, limit=200)[0]


STEPS = st.integers(0, 1000).map(lambda step: step / 1000)
"""Not 1e-305, at which the quadrature, not what it checks, fails."""


@given(STEPS, st.floats(0.01, 0.5), st.floats(0.01, 0.5), STEPS)
@settings(max_examples=60, deadline=None)
def test_crps_is_its_definition(middle: float, below: float, above: float, measured: float) -> None:
    low, high = max(0.0, middle - below), min(1.0, middle + above)
    if middle - low < 0.01 or high - middle < 0.01:
        return
    prediction = Prediction("Memorize", middle, low, high)
    assert crps(prediction, measured) == pytest.approx(integrated(prediction, measured), abs=1e-6)


def test_crps_far_from_the_edges_is_the_normal_closed_form() -> None:
    prediction, measured = Prediction("Memorize", 0.5, 0.45, 0.55), 0.53
    scale = 0.05 / Z
    z = (measured - 0.5) / scale
    closed = scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert crps(prediction, measured) == pytest.approx(closed)


@given(UNIT, UNIT)
def test_a_prediction_without_width_costs_its_distance(middle: float, measured: float) -> None:
    assert crps(Prediction("Memorize", middle, middle, middle), measured) == pytest.approx(
        abs(middle - measured)
    )


@given(st.floats(0.11, 0.89), st.floats(0.01, 0.1), UNIT)
def test_crps_has_no_preferred_direction(middle: float, half: float, measured: float) -> None:
    one = Prediction("Memorize", middle, middle - half, middle + half)
    mirrored = Prediction("Memorize", 1 - middle, 1 - middle - half, 1 - middle + half)
    assert crps(one, measured) == pytest.approx(crps(mirrored, 1 - measured), abs=1e-12)


def test_honesty_pays() -> None:
    """The expected score is best for the distribution that outcomes really have."""
    outcomes = np.random.default_rng(1).normal(0.5, 0.05, 4000)

    def mean(scale: float) -> float:
        half = Z * 0.05 * scale
        return float(
            np.mean([crps(Prediction("Memorize", 0.5, 0.5 - half, 0.5 + half), y) for y in outcomes])
        )

    assert mean(1.0) < mean(0.5)
    assert mean(1.0) < mean(2.0)


def test_each_prediction_is_scored() -> None:
    predictions = (
        Prediction("Memorize", 0.5, 0.4, 0.6),
        Prediction("Compress", 0.5, 0.4, 0.6),
        Prediction("Fuzzy Recall", 0.5, 0.4, 0.6),
        Prediction("Noisy Recall", 0.5, 0.4, 0.6),
    )
    measured = {"Memorize": 0.55, "Compress": 0.3, "Fuzzy Recall": None, "Noisy Recall": 0.45}
    parents = {"Memorize": 0.45, "Compress": 0.35, "Fuzzy Recall": 0.4, "Noisy Recall": 0.45}
    found = score_predictions(predictions, measured, parents)
    assert [one.covered for one in found] == [True, False, None, True]
    assert [one.sign_right for one in found] == [True, False, None, False]
    assert found[2].crps is None
    assert found[0].crps == pytest.approx(crps(predictions[0], 0.55))


def test_no_sign_where_none_was_predicted_or_no_parent_is_known() -> None:
    (one,) = score_predictions([Prediction("Memorize", 0.5, 0.4, 0.6)], {"Memorize": 0.6}, {"Memorize": 0.5})
    (two,) = score_predictions([Prediction("Memorize", 0.5, 0.4, 0.6)], {"Memorize": 0.6}, {})
    assert (one.sign_right, two.sign_right) == (None, None)


def test_nan_is_no_outcome() -> None:
    (one,) = score_predictions(
        [Prediction("Memorize", 0.5, 0.4, 0.6)], {"Memorize": float("nan")}, {"Memorize": 0.5}
    )
    assert (one.measured, one.covered, one.sign_right, one.crps) == (None, None, None, None)


@pytest.mark.parametrize(
    "numbers", [(0.5, 0.6, 0.7), (0.5, 0.3, 0.4), (1.2, 0.5, 1.3), (float("nan"), 0.1, 0.9)]
)
def test_impossible_predictions_are_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="low <= score <= high"):
        crps(Prediction("Memorize", *numbers), 0.5)


def proposal(name: str, researcher: str) -> ProposalRecord:
    return ProposalRecord(name, name, "delta_net", ("read",), "", "", (), researcher, "t")


def verdict_of(name: str, scores: list[PredictionScore], parent: float | None = 0.4) -> VerdictRecord:
    tasks = tuple(
        TaskComparison(one.task, None, parent, 0.0, -0.06, 0.04, None, None, "undecided", 1, 1)
        for one in scores
    )
    comparison = Comparison(name, "delta_net", "full", tasks, tasks[0], False)
    floors = {one.task: 0.02 for one in scores}
    return VerdictRecord(
        name, name, "delta_net", "gated", "full", comparison, comparison, tuple(scores), floors, "", True, "t"
    )


def test_track_record_per_researcher_and_task() -> None:
    good = PredictionScore("Memorize", 0.5, 0.4, 0.6, 0.52, True, True, 0.02)
    bad = PredictionScore("Memorize", 0.5, 0.4, 0.6, 0.80, False, False, 0.25)
    other = PredictionScore("Compress", 0.5, 0.4, 0.6, 0.5, True, None, 0.01)
    unmeasured = PredictionScore("Compress", 0.5, 0.4, 0.6, None, None, None, None)
    rows = track_record(
        [verdict_of("p", [good, other]), verdict_of("q", [bad, unmeasured]), verdict_of("r", [good])],
        [proposal("p", "search"), proposal("q", "search"), proposal("r", "person")],
    )
    assert [(row.researcher, row.task, row.n) for row in rows] == [
        ("person", "Memorize", 1),
        ("person", "All", 1),
        ("search", "Compress", 1),
        ("search", "Memorize", 2),
        ("search", "All", 3),
    ]
    memorize = rows[3]
    assert memorize.coverage == 0.5
    assert memorize.mean_crps == pytest.approx(0.135)
    assert memorize.sign_rate == 0.5
    assert memorize.ratios == pytest.approx((0.2, 3.0))
    half = 0.05 * Z / 1.959964
    base = Prediction("Memorize", 0.4, 0.4 - half, 0.4 + half)
    assert memorize.baseline_crps == pytest.approx(np.mean([crps(base, 0.52), crps(base, 0.80)]))
    assert rows[2].sign_rate is None


def test_no_change_is_compared_on_the_same_outcomes() -> None:
    """Outcomes whose parent has no score neither help nor harm; once they wiped a whole record out."""
    good = PredictionScore("Memorize", 0.5, 0.4, 0.6, 0.52, True, True, 0.02)
    bad = PredictionScore("Memorize", 0.9, 0.89, 0.91, 0.4, False, False, 0.48)
    known, *_ = track_record([verdict_of("p", [good])], [proposal("p", "search")])
    both = [verdict_of("p", [good]), verdict_of("q", [bad], parent=None)]
    _, every = track_record(both, [proposal("p", "search"), proposal("q", "search")])
    assert every.baseline_crps == known.baseline_crps is not None
    assert (every.n, every.compared, every.mean_crps, every.compared_crps) == (2, 1, 0.25, 0.02)
    (alone,) = {row.baseline_crps for row in track_record(both[1:], [proposal("q", "search")])}
    assert alone is None


def test_where_two_rules_are_one_function_no_change_is_no_forecast() -> None:
    """It would be right to the last bit, and any honest interval would lose against it."""
    score = PredictionScore("Memorize", 0.4, 0.3, 0.5, 0.4, True, None, 0.02)
    verdict = verdict_of("p", [score])
    (task,) = verdict.against_parent.tasks
    same = replace(verdict.against_parent, tasks=(replace(task, low=0.0, high=0.0, exact_settings=1),))
    (row, _) = track_record([replace(verdict, against_parent=same)], [proposal("p", "search")])
    assert (row.n, row.compared, row.baseline_crps) == (1, 0, None)


def test_a_record_of_bad_predictions_is_not_wiped_out_by_an_outcome_without_a_parent() -> None:
    bad = PredictionScore("Memorize", 0.9, 0.89, 0.91, 0.4, False, False, 0.48)
    proposals = [proposal(str(number), "search") for number in range(21)]
    verdicts = [verdict_of(str(number), [bad], parent=0.4 if number else None) for number in range(21)]
    (found,) = standings(track_record(verdicts, proposals), ["search"])
    assert found.worth == 1 / MOST_WORTH


def test_a_verdict_on_an_unknown_proposal_is_refused() -> None:
    score = PredictionScore("Memorize", 0.5, 0.4, 0.6, 0.52, True, True, 0.02)
    with pytest.raises(UserError, match="'p'"):
        track_record([verdict_of("p", [score])], [])


def test_no_record_no_widening_and_good_ones_none() -> None:
    calibrated = np.abs(np.random.default_rng(3).standard_normal(200)) / Z
    assert widening([]) == 1.0
    assert widening([0.1] * 50) == 1.0
    assert widening(calibrated.tolist()) == pytest.approx(1.0, abs=0.12)


def test_widening_is_the_conformal_quantile_with_ten_calibrated_ratios_before() -> None:
    """Of n ratios the ceil((n + 1) 0.9)-th: of 10 and 20 the 28th, the third largest."""
    ratios = [1.1 + index / 10 for index in range(20)]
    assert widening(ratios) == pytest.approx(ratios[-3])
    assert widening(ratios[:8]) == pytest.approx(ratios[:8][-1])  # of 18 the 18th


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_overconfidence_is_widened_by_what_it_lacks(factor: float) -> None:
    ratios = factor * np.abs(np.random.default_rng(3).standard_normal(400)) / Z
    assert widening(ratios.tolist()) == pytest.approx(factor, rel=0.12)


def test_widening_makes_future_intervals_cover() -> None:
    generator = np.random.default_rng(4)
    past, future = (np.abs(generator.standard_t(4, 300)) * 2 / Z for _ in range(2))
    assert np.mean(future <= 1) < 0.7
    assert np.mean(future <= widening(past.tolist())) == pytest.approx(0.9, abs=0.04)


@given(st.lists(st.floats(0, 20), max_size=30), st.floats(0, 20))
def test_a_worse_outcome_never_narrows(ratios: list[float], worse: float) -> None:
    more = widening([*ratios, max([worse, *ratios])])
    assert 1.0 <= more <= 10.0
    if ratios:
        raised = [max(ratio, worse) for ratio in ratios]
        assert widening(raised) >= widening(ratios)


def test_widen_stays_within_the_scores_and_keeps_the_middle() -> None:
    score = PredictionScore("Memorize", 0.5, 0.49, 0.51, 0.9, False, True, 0.4)
    names = [f"p{index}" for index in range(20)]
    rows = track_record([verdict_of(n, [score]) for n in names], [proposal(n, "search") for n in names])
    (wide,) = widen([Prediction("Memorize", 0.95, 0.9, 1.0)], rows, "search")
    assert wide == Prediction("Memorize", 0.95, pytest.approx(0.45), 1.0)
    assert widen([Prediction("Memorize", 0.95, 0.9, 1.0)], rows, "person") == (
        Prediction("Memorize", 0.95, 0.9, 1.0),
    )
    both = [*rows, *track_record([verdict_of("x", [score])], [proposal("x", "person")])]
    with pytest.raises(UserError, match="several researchers"):
        widen([Prediction("Memorize", 0.95, 0.9, 1.0)], both)


def track_row(researcher: str, n: int, own: float, no_change: float | None, ratio: float = 0.5) -> TrackRow:
    return TrackRow(researcher, "All", n, 0.9, own, None, no_change, (ratio,) * n, n, own)


def test_whoever_predicts_better_gets_more_of_the_budget() -> None:
    rows = [track_row("good", 30, 0.01, 0.03), track_row("bad", 30, 0.09, 0.03, ratio=5.0)]
    good, bad, new = standings(rows, ["good", "bad", "new"])
    assert good.share > new.share > bad.share > 0
    assert good.share + bad.share + new.share == pytest.approx(1)
    assert (good.widening, new.widening, bad.widening) == (1.0, 1.0, 5.0)
    assert (good.n, bad.n, new.n) == (30, 30, 0)
    assert bad.worth == pytest.approx((10 + 30) * 0.03 / (10 * 0.03 + 30 * 0.09))


def test_a_short_record_moves_the_budget_little_and_no_record_silences() -> None:
    (one,) = standings([track_row("a", 1, 0.3, 0.03)], ["a"])
    assert one.worth == pytest.approx((PRIOR_PREDICTIONS + 1) / (PRIOR_PREDICTIONS + 10))
    assert one.share == 1
    hopeless, other = standings([track_row("a", 10_000, 0.9, 0.001)], ["a", "b"])
    assert hopeless.worth == 1 / MOST_WORTH
    assert hopeless.share == pytest.approx(0.2)
    assert other.worth == 1


def test_without_a_record_of_no_change_the_shares_are_equal() -> None:
    found = standings([track_row("a", 20, 0.2, None), track_row("b", 20, 0.01, None)], ["a", "b", "a"])
    assert [(one.researcher, one.share) for one in found] == [("a", 0.5), ("b", 0.5)]
    assert standings([], []) == ()
