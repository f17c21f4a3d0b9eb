"""What a prediction was worth once the runs are in, and what a record of them says about the next one.

A prediction (middle m, 90% interval low to high) is read as half a normal on either side of m, each with
half the probability and the scale that puts 5% beyond its end; what lies outside 0 to 1 is put on 0 and 1.
The continuous ranked probability score (Gneiting and Raftery 2007, doi:10.1198/016214506000001437) of a
distribution F and an outcome y is the integral over x of (F(x) - [x >= y])²: in units of the score, 0 is
best.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from archer.judge.errors import JudgeError
from archer.ledger.records import TASKS, Prediction, PredictionScore, ProposalRecord, VerdictRecord

COVERAGE = 0.90
"""The probability that a prediction's interval claims."""

Z = float(stats.norm.isf((1 - COVERAGE) / 2))

ALL_TASKS = "All"

PRIOR_PREDICTIONS = 10
"""`widening` begins as if this many predictions had come out exactly as a calibrated researcher's do."""

WIDEST = 10.0
"""No interval is widened by more than this factor."""

MOST_WORTH = 4.0
"""No researcher counts for more than so many times one without a record, nor for less than its inverse."""


def crps(prediction: Prediction, measured: float) -> float:
    """Continuous ranked probability score of a prediction, in units of the score; 0 is best."""
    check_prediction(prediction)
    middle = prediction.score
    below, above = (middle - prediction.low) / Z, (prediction.high - middle) / Z
    if measured >= middle:
        left = _squared_cdf(0.0, middle, middle, below)
        between = _squared_cdf(middle, measured, middle, above)
        return left + between + _squared_tail(measured, 1.0, middle, above)
    right = _squared_tail(middle, 1.0, middle, above)
    between = _squared_tail(measured, middle, middle, below)
    return right + between + _squared_cdf(0.0, measured, middle, below)


def _squared_cdf(start: float, end: float, middle: float, scale: float) -> float:
    """Integral of F² from start to end, for a normal F (a step, where the scale is 0)."""
    if scale == 0:
        return max(0.0, end - max(start, middle))
    a, b = (start - middle) / scale, (end - middle) / scale
    return scale * (_antiderivative(b) - _antiderivative(a))


def _squared_tail(start: float, end: float, middle: float, scale: float) -> float:
    """Integral of (1 - F)² from start to end: the mirror image."""
    return _squared_cdf(-end, -start, -middle, scale)


def _antiderivative(z: float) -> float:
    """Of the squared standard normal distribution: z N(z)² + 2 n(z) N(z) - N(sqrt(2) z) / sqrt(pi)."""
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    below = float(special.ndtr(z))
    return z * below**2 + 2 * density * below - float(special.ndtr(math.sqrt(2) * z)) / math.sqrt(math.pi)


def check_prediction(prediction: Prediction) -> None:
    """Raises JudgeError unless 0 <= low <= score <= high <= 1, all numbers."""
    low, middle, high = prediction.low, prediction.score, prediction.high
    if not (all(map(math.isfinite, (low, middle, high))) and 0 <= low <= middle <= high <= 1):
        raise JudgeError(
            f"The prediction for {prediction.task} is score {middle}, interval {low} to {high}; "
            "it must satisfy 0 <= low <= score <= high <= 1."
        )


def score_predictions(
    predictions: Iterable[Prediction],
    measured: Mapping[str, float | None],
    parent_scores: Mapping[str, float | None],
) -> tuple[PredictionScore, ...]:
    """Each prediction against its outcome; None where there is no outcome.

    sign_right: whether the change from the parent has the predicted sign. None where no change was predicted
    or the parent has no score; False where a change was predicted and exactly none came.
    """
    return tuple(
        _score_one(
            prediction, _number(measured.get(prediction.task)), _number(parent_scores.get(prediction.task))
        )
        for prediction in predictions
    )


def _score_one(prediction: Prediction, measured: float | None, parent: float | None) -> PredictionScore:
    check_prediction(prediction)
    named = (prediction.task, prediction.score, prediction.low, prediction.high)
    if measured is None:
        return PredictionScore(*named, None, None, None, None)
    covered = prediction.low <= measured <= prediction.high
    sign = None
    if parent is not None and prediction.score != parent:
        sign = (prediction.score - parent) * (measured - parent) > 0
    return PredictionScore(*named, measured, covered, sign, crps(prediction, measured))


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class TrackRow:
    """How one researcher's predictions of one task (or of "All") came out.

    coverage: share inside the 90% interval. sign_rate: share with the right sign, of those that have one.
    baseline_crps: what "no change from the parent, give or take the noise" would have scored on the outcomes
    whose parent has a score (None where none has); compared, compared_crps: how many these are, and the mean
    CRPS of the predictions of them. ratios: per prediction, how many half intervals the outcome lay from the
    middle (above 1: not covered; infinite for an interval of no width).
    """

    researcher: str
    task: str
    n: int
    coverage: float
    mean_crps: float
    sign_rate: float | None
    baseline_crps: float | None
    ratios: tuple[float, ...]
    compared: int = 0
    compared_crps: float | None = None


@dataclass(frozen=True)
class _Outcome:
    found: PredictionScore
    baseline: float | None


def track_record(
    verdicts: Iterable[VerdictRecord], proposals: Iterable[ProposalRecord]
) -> tuple[TrackRow, ...]:
    """One row per researcher and task, in the tasks' order, then one for "All"; only measured predictions."""
    by_id = {proposal.id: proposal for proposal in proposals}
    gathered: dict[tuple[str, str], list[_Outcome]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.proposal not in by_id:
            raise JudgeError(
                f"Verdict on {verdict.rule!r} names proposal {verdict.proposal!r}, which is not known."
            )
        researcher = by_id[verdict.proposal].researcher
        for found in verdict.predictions:
            if found.measured is None:
                continue
            outcome = _Outcome(found, _no_change(verdict, found))
            gathered[researcher, found.task].append(outcome)
            gathered[researcher, ALL_TASKS].append(outcome)
    order = {task: index for index, task in enumerate((*TASKS, ALL_TASKS))}
    keys = sorted(gathered, key=lambda key: (key[0], order.get(key[1], len(order)), key[1]))
    return tuple(_track_row(*key, gathered[key]) for key in keys)


def _no_change(verdict: VerdictRecord, found: PredictionScore) -> float | None:
    """CRPS of a forecast of the parent's score, as wide as the interval of the difference between the two
    (95%, so narrowed to 90%): that is the noise at their level, with their number of seeds. None where the
    two are one function: "no change" is no forecast there."""
    judged = {task.task: task for task in verdict.against_parent.tasks}.get(found.task)
    if judged is None or judged.exact_settings == judged.settings:
        return None
    parent, low, high = map(_number, (judged.baseline, judged.low, judged.high))
    if parent is None or low is None or high is None or found.measured is None:
        return None
    half = (high - low) / 2 * Z / float(stats.norm.isf(0.025))
    forecast = Prediction(found.task, parent, max(0.0, parent - half), min(1.0, parent + half))
    return crps(forecast, found.measured)


def _track_row(researcher: str, task: str, outcomes: Sequence[_Outcome]) -> TrackRow:
    signs = [outcome.found.sign_right for outcome in outcomes if outcome.found.sign_right is not None]
    compared = [outcome for outcome in outcomes if outcome.baseline is not None]
    return TrackRow(
        researcher,
        task,
        len(outcomes),
        float(np.mean([bool(outcome.found.covered) for outcome in outcomes])),
        float(np.mean([one.found.crps for one in outcomes if one.found.crps is not None])),
        float(np.mean(signs)) if signs else None,
        float(np.mean([one.baseline for one in compared if one.baseline is not None])) if compared else None,
        tuple(_ratio(outcome.found) for outcome in outcomes),
        len(compared),
        float(np.mean([one.found.crps for one in compared if one.found.crps is not None]))
        if compared
        else None,
    )


def _ratio(found: PredictionScore) -> float:
    """Distance of the outcome from the middle, in half intervals of its side."""
    if found.measured is None:
        raise AssertionError("only measured predictions are gathered")
    half = found.high - found.predicted if found.measured >= found.predicted else found.predicted - found.low
    distance = abs(found.measured - found.predicted)
    if distance == 0:
        return 0.0
    return distance / half if half > 0 else math.inf


def widening(ratios: Sequence[float]) -> float:
    """By what factor intervals must be widened to cover 90%, given past ratios; 1 with no record.

    Split conformal prediction (Vovk 2005; Lei 2018, doi:10.1080/01621459.2017.1307116): the quantile
    ceil((n + 1) 0.9) / n of the ratios, begun with PRIOR_PREDICTIONS ratios of a calibrated normal so that a
    short record moves it little. Never below 1, so that vague predictions gain nothing, nor above WIDEST.
    """
    levels = (np.arange(PRIOR_PREDICTIONS) + 0.5) / PRIOR_PREDICTIONS
    calibrated = stats.norm.ppf((1 + levels) / 2) / Z
    everything = np.sort(np.concatenate([calibrated, np.asarray(ratios, dtype=float)]))
    if not len(ratios):
        return 1.0
    rank = min(math.ceil((everything.size + 1) * COVERAGE), everything.size)
    return float(np.clip(everything[rank - 1], 1.0, WIDEST))


def widen(
    predictions: Iterable[Prediction], record: Sequence[TrackRow], researcher: str | None = None
) -> tuple[Prediction, ...]:
    """The same predictions with intervals as wide as the track record asks for, within 0 to 1.

    The larger of the task's own factor and that of all tasks together counts. researcher: whose rows count
    (all rows must be of one researcher if left out).
    """
    rows = [row for row in record if researcher is None or row.researcher == researcher]
    if len({row.researcher for row in rows}) > 1:
        raise JudgeError("The track record holds several researchers: say whose predictions these are.")
    factors = {row.task: widening(row.ratios) for row in rows}
    return tuple(
        _widen_one(one, max(factors.get(one.task, 1.0), factors.get(ALL_TASKS, 1.0))) for one in predictions
    )


def _widen_one(prediction: Prediction, factor: float) -> Prediction:
    check_prediction(prediction)
    low = prediction.score - factor * (prediction.score - prediction.low)
    high = prediction.score + factor * (prediction.high - prediction.score)
    return Prediction(prediction.task, prediction.score, max(0.0, low), min(1.0, high))


@dataclass(frozen=True)
class Standing:
    """What a researcher's record earns it.

    n: predictions with an outcome. widening: the factor by which its next intervals must grow. worth: how
    much better than "no change" it predicts, as a ratio of mean CRPS, from 1 / MOST_WORTH to MOST_WORTH; 1
    with no record. share: of a budget that the researchers divide.
    """

    researcher: str
    n: int
    widening: float
    worth: float
    share: float


def standings(record: Sequence[TrackRow], researchers: Iterable[str]) -> tuple[Standing, ...]:
    """How much each of these researchers may spend, and how wide its intervals must be; shares sum to 1.

    The worth is sum(CRPS of "no change") / sum(own CRPS), each sum begun with PRIOR_PREDICTIONS outcomes as
    good as "no change": a short record moves it little, and whoever is often wrong loses budget but never
    all of it, so that it can win it back. Outcomes without a "no change" to compare with count as none.
    """
    rows = {row.researcher: row for row in record if row.task == ALL_TASKS}
    names = tuple(dict.fromkeys(researchers))
    worths = {name: _worth(rows.get(name)) for name in names}
    total = math.fsum(worths.values())
    return tuple(
        Standing(
            name,
            rows[name].n if name in rows else 0,
            widening(rows[name].ratios) if name in rows else 1.0,
            worths[name],
            worths[name] / total,
        )
        for name in names
    )


def _worth(row: TrackRow | None) -> float:
    if row is None or not row.baseline_crps or row.compared_crps is None:
        return 1.0
    prior = PRIOR_PREDICTIONS * row.baseline_crps
    ratio = (prior + row.compared * row.baseline_crps) / (prior + row.compared * row.compared_crps)
    return float(np.clip(ratio, 1 / MOST_WORTH, MOST_WORTH))
