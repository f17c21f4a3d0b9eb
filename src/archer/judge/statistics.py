"""The arithmetic of a verdict, on arrays: one comparison and a million simulated ones are judged alike.

Shapes: every argument broadcasts; in a family of tasks the tasks are the last axis, `[..., tasks]`.
The variance of a mean difference is moderated (Smyth 2004, doi:10.2202/1544-6115.1027): what is known of the
noise from other runs counts as `prior_df` observations beside the `seeds - 1` of the comparison itself.
docs/design/statistics.md says why, and what simulation says of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from archer.judge.ceiling import SURE_SEEDS

Array = NDArray[np.float64]

RESOLUTION = 1e-4
"""Scores closer than this are not told apart: a standard deviation is never taken to be smaller."""

OUTLYING = 0.01
"""Own noise so far above the known noise that chance would show it this rarely is not shrunk towards it."""

Possible = tuple[Any, Any]
"""The least and the most that a difference can be; infinite where the ceiling of the task is far."""

ANYTHING: Possible = (-np.inf, np.inf)

MOST_SEEDS = 64
"""`more_seeds` beyond this is not promised: None."""

FEWEST_SAME = 2
"""With one seed all that is known of the noise is other rules': two are not called the same on their word."""


@dataclass(frozen=True)
class Evidence:
    """What was measured of a mean difference: its variance per seed, the number of seeds, and what is known.

    difference: mean over seeds. own_variance: over seeds (ignored where seeds < 2). prior_variance: expected
    variance of one seed's difference; prior_df: how many observations that counts as (0: nothing known).
    """

    difference: Array
    own_variance: Array
    seeds: Array
    prior_variance: Array
    prior_df: Array


@dataclass(frozen=True)
class Moderated:
    """Variance of one seed's difference and its degrees of freedom; NaN and 0 where nothing is known."""

    variance: Array
    degrees_of_freedom: Array


def evidence(difference: Any, own_variance: Any, seeds: Any, prior_variance: Any, prior_df: Any) -> Evidence:
    """An Evidence from anything that broadcasts; a prior without a variance counts for nothing."""
    arrays = np.broadcast_arrays(
        *(
            np.asarray(value, dtype=float)
            for value in (difference, own_variance, seeds, prior_variance, prior_df)
        )
    )
    difference, own, seeds, prior, weight = arrays
    known = np.isfinite(prior) & (weight > 0)
    return Evidence(difference, own, seeds, np.where(known, prior, 0.0), np.where(known, weight, 0.0))


def moderate(given: Evidence) -> Moderated:
    """Pool own and known variance by degrees of freedom; own noise that is far larger stands alone."""
    own_df = np.maximum(given.seeds - 1, 0)
    own = np.where(own_df > 0, np.maximum(given.own_variance, RESOLUTION**2), 0.0)
    prior = np.maximum(given.prior_variance, RESOLUTION**2)
    total = own_df + given.prior_df
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (own_df * own + given.prior_df * prior) / total
        limit = _limits(np.maximum(own_df, 1), np.maximum(given.prior_df, 1e-9))
        outlying = (own_df > 0) & (given.prior_df > 0) & (own > limit * prior)
    variance = np.where(outlying, own, pooled)
    return Moderated(np.where(total > 0, variance, np.nan), np.where(outlying, own_df, total))


def _limits(own_df: Array, prior_df: Array) -> Array:
    """How many times the known variance own noise may be before it is outlying. Of a million comparisons few
    differ in their degrees of freedom: each pair is asked for once, here as below."""
    own, row = np.unique(own_df, return_inverse=True)
    prior, column = np.unique(prior_df, return_inverse=True)
    table = [_limit(one, other) for one in own.tolist() for other in prior.tolist()]
    return np.asarray(table)[row * prior.size + column].reshape(own_df.shape)


@cache
def _limit(own_df: float, prior_df: float) -> float:
    return float(stats.f.isf(OUTLYING, own_df, prior_df))


def _t_above(tail: float, degrees_of_freedom: Any) -> Array:
    """What Student's t exceeds with probability `tail`."""
    asked = np.asarray(degrees_of_freedom, dtype=float)
    numbers, place = np.unique(asked, return_inverse=True)
    return stats.t.isf(tail, numbers)[place].reshape(asked.shape)


def standard_error(given: Evidence, moderated: Moderated) -> Array:
    """Of the mean difference over the seeds; NaN where there is no seed or no notion of the noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(moderated.variance / given.seeds)
    return np.where(given.seeds > 0, error, np.nan)


def two_sided_p(difference: Array, error: Array, degrees_of_freedom: Array) -> Array:
    """Of "the two are equal"; NaN where the error is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * stats.t.sf(np.abs(difference) / error, degrees_of_freedom)


def interval(difference: Array, error: Array, degrees_of_freedom: Array, level: float) -> tuple[Array, Array]:
    """The central interval of the difference at `level`, e.g. 0.95."""
    half = _t_above((1 - level) / 2, degrees_of_freedom) * error
    return difference - half, difference + half


def equivalence_p(difference: Array, error: Array, degrees_of_freedom: Array, margin: float) -> Array:
    """Of "they differ by `margin` or more": the larger of two one-sided tests (Schuirmann 1987)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return stats.t.sf((margin - np.abs(difference)) / error, degrees_of_freedom)


def holm(p_values: Any) -> Array:
    """Adjusted over the last axis (Holm 1979), the family error kept whatever the dependence.

    A missing p-value (NaN) stays missing but counts in the family, as if it were 1.
    """
    raw = np.asarray(p_values, dtype=float)
    filled = np.where(np.isnan(raw), 1.0, raw)
    order = np.argsort(filled, axis=-1, kind="stable")
    factors = np.arange(raw.shape[-1], 0, -1)
    steps = np.maximum.accumulate(np.take_along_axis(filled, order, axis=-1) * factors, axis=-1)
    adjusted = np.empty_like(filled)
    np.put_along_axis(adjusted, order, np.minimum(steps, 1.0), axis=-1)
    return np.where(np.isnan(raw), np.nan, adjusted)


def words(
    difference: Array,
    p_adjusted: Array,
    p_equivalence: Array,
    alpha: float,
    seeds: Array,
    possible: Possible = ANYTHING,
) -> NDArray[np.str_]:
    """better, worse, same or undecided. A difference that is certain but smaller than the margin is still
    better or worse, but not on a side where the ceiling leaves no room for more: what lies between two scores
    there says when training stopped. "same" needs seeds (`fewest_same`): it is said of those to come too."""
    lowest, highest = map(np.isfinite, possible)
    certain = p_adjusted <= alpha
    equal = (p_equivalence <= alpha) | (lowest & highest)
    return np.select(
        [
            certain & (difference > 0) & ~highest,
            certain & (difference < 0) & ~lowest,
            equal & (seeds >= fewest_same(possible)),
        ],
        ["better", "worse", "same"],
        "undecided",
    )


def fewest_same(possible: Possible) -> NDArray[np.int_]:
    """Seeds without which two rules are not called the same: many where either lies at the ceiling, where a
    rule that fails now and then looks like one that never does."""
    near = np.isfinite(possible[0]) | np.isfinite(possible[1])
    return np.where(near, SURE_SEEDS, FEWEST_SAME)


def within(low: Array, high: Array, possible: Possible) -> tuple[Array, Array]:
    """The interval without what the ceiling excludes; where it closes both sides, all that is possible.

    Scores lie between 0 and 1, so that no difference is beyond -1 or 1.
    """
    lowest, highest = map(np.asarray, possible)
    both = np.isfinite(lowest) & np.isfinite(highest)
    low = np.where(both, lowest, np.clip(np.maximum(low, lowest), -1, 1))
    return low, np.where(both, highest, np.clip(np.minimum(high, highest), -1, 1))


def more_seeds(
    given: Evidence,
    margin: float,
    alpha: float,
    family: int,
    possible: Possible = ANYTHING,
    power: float = 0.8,
) -> int | None:
    """The fewest further seeds that decide it with probability `power`, were the estimates true (scalars).

    "Decide" is p below alpha / family (the hardest step of Holm), or equivalence within the margin, which a
    miss to either side can spoil. None where more than MOST_SEEDS would be needed or the noise is unknown.
    """
    moderated = moderate(given)
    if not np.isfinite(moderated.variance):
        return None
    have, distance = float(given.seeds), float(np.abs(given.difference))
    extra = np.arange(1, MOST_SEEDS + 1)
    error = np.sqrt(float(moderated.variance) / (have + extra))
    freedom = float(moderated.degrees_of_freedom) + extra
    reserve = stats.t.isf(1 - power, freedom)
    differs = distance >= (stats.t.isf(alpha / family / 2, freedom) + reserve) * error
    within_reach = margin / error - stats.t.isf(alpha, freedom)
    chance = stats.t.cdf(within_reach - distance / error, freedom)
    chance -= stats.t.cdf(-within_reach - distance / error, freedom)
    enough = np.flatnonzero(differs | ((chance >= power) & (have + extra >= fewest_same(possible))))
    return int(extra[enough[0]]) if enough.size else None
