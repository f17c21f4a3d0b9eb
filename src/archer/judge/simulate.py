"""Worlds in which the truth is known, to see whether verdicts are right as often as they say.

A world draws paired differences from variance components (noise.NoiseFloor) and judges them with the very
functions of `statistics` that judge real runs. Shapes: `[replicates, tasks]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from archer.judge import statistics
from archer.judge.noise import HETEROGENEITY, NoiseFloor
from archer.judge.sequential import UntilDecided
from archer.judge.statistics import Array, Evidence


@dataclass(frozen=True)
class Design:
    """How much is trained: settings per task (one number for all tasks, or one each) and seeds."""

    name: str
    settings: tuple[int, ...]
    seeds: int


@dataclass(frozen=True)
class Judged:
    """Verdicts on simulated comparisons, `[replicates, tasks]`, and the evidence that they rest on."""

    words: NDArray[np.str_]
    low: Array
    high: Array
    given: Evidence

    def rate(self, word: str) -> Array:
        """How often each task got this word, `[tasks]`."""
        return np.mean(self.words == word, axis=0)

    def any_rate(self, word: str) -> float:
        """How often any task got this word."""
        return float(np.mean(np.any(self.words == word, axis=-1)))

    def all_rate(self, word: str) -> float:
        """How often every task got this word."""
        return float(np.mean(np.all(self.words == word, axis=-1)))

    def coverage(self, truth: Any) -> Array:
        """How often each task's interval held the true difference, `[tasks]`."""
        return np.mean((self.low <= truth) & (truth <= self.high), axis=0)


@dataclass(frozen=True)
class Drawn:
    """Simulated differences `[seeds, replicates, tasks]`, and what the judge is told of their variance.

    scores: of candidate and baseline, each shaped as values, where the ceiling of the tasks is simulated.
    """

    values: Array
    known: Array
    weight: Array
    scores: tuple[Array, Array] | None = None


def draw(
    floors: Sequence[NoiseFloor],
    design: Design,
    truth: Any,
    *,
    replicates: int,
    generator: np.random.Generator,
    alike: bool = False,
    correlation: float = 0.0,
    prior: bool = True,
    levels: Any = None,
) -> Drawn:
    """`replicates` comparisons with true differences `truth` (broadcast to the tasks).

    The variance of each rule pair is drawn around the floor's as `heterogeneity` says (all equal, if alike);
    the known variance that the judge is given is an estimate with the floor's degrees of freedom, drawn anew
    each time. correlation: of the noise of any two tasks. prior: False to give the judge no known noise.
    levels: the baseline's true score on each task; both scores are then drawn around theirs, and none
    exceeds 1; the judge is told what noise is left of rules at that level. Without levels the ceiling is far.
    """
    settings = np.broadcast_to(design.settings, len(floors))
    expected = np.asarray(
        [f.difference_variance(int(m), int(m)) for f, m in zip(floors, settings, strict=True)]
    )
    freedom = np.asarray([floor.degrees_of_freedom for floor in floors])
    shape = (replicates, len(floors))
    variance = np.broadcast_to(expected, shape)
    if not alike:
        unlike = np.asarray([_unlike(floor) for floor in floors])
        variance = np.where(
            np.isfinite(unlike), expected * unlike / _chi2(generator, unlike, shape), expected
        )
    noise = np.sqrt(variance) * _noise(generator, (design.seeds, *shape), correlation)
    values, scores = np.asarray(truth) + noise, None
    if levels is not None:
        rest = np.sqrt(variance) * _noise(generator, (design.seeds, *shape), correlation)
        own = [(rest + noise) / 2 + truth, (rest - noise) / 2]  # independent, each with half of the variance
        ours, theirs = (np.minimum(np.asarray(levels) + one, 1.0) for one in own)
        values, scores = ours - theirs, (ours, theirs)
        expected = 2 * _variance_below(1 - np.asarray(levels), np.sqrt(expected / 2))
    known = expected * _chi2(generator, freedom, shape) / freedom
    weight = np.asarray([floor.weight() for floor in floors]) if prior else np.zeros(len(floors))
    return Drawn(values, known, weight, scores)


def simulate(
    floors: Sequence[NoiseFloor],
    design: Design,
    truth: Any,
    *,
    replicates: int,
    generator: np.random.Generator,
    **options: Any,
) -> Evidence:
    """The evidence of drawn comparisons; options as in `draw`."""
    drawn = draw(floors, design, truth, replicates=replicates, generator=generator, **options)
    return from_values(drawn.values, drawn.known, drawn.weight)


def draw_unlike_normal(
    sample: Callable[[np.random.Generator, tuple[int, ...]], Array],
    design: Design,
    *,
    replicates: int,
    generator: np.random.Generator,
    tasks: int = 6,
    freedom: int = 12,
) -> Drawn:
    """No difference, and scores of any distribution: `sample(generator, shape)` draws them.

    design.settings must be one number. What the judge is told comes from freedom + 1 repeats of one setting.
    """
    (settings,) = design.settings
    shape = (settings, design.seeds, replicates, tasks)
    values = (sample(generator, shape) - sample(generator, shape)).mean(axis=0)
    repeats = sample(generator, (freedom + 1, replicates, tasks))
    weight = freedom * HETEROGENEITY / (freedom + HETEROGENEITY)
    return Drawn(values, 2 * np.var(repeats, axis=0, ddof=1) / settings, np.full(tasks, weight))


def ceiling(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Scores that mostly sit at 1: normal around 0.995, cut off at 1."""
    return np.minimum(generator.normal(0.995, 0.01, shape), 1.0)


def two_outcomes(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Scores of runs that either learn the task (three in four) or do not, 0.3 apart."""
    return 0.5 + 0.3 * (generator.random(shape) < 0.75) + generator.normal(0, 0.01, shape)


def heavy_tails(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Scores with a rare large miss: Student's t with three degrees of freedom."""
    return 0.5 + 0.02 * generator.standard_t(3, shape)


def _unlike(floor: NoiseFloor) -> float:
    return np.inf if floor.provisional else (floor.heterogeneity or HETEROGENEITY)


def _variance_below(room: Array, deviation: Array) -> Array:
    """Of normal noise that is cut off where the room ends."""
    with np.errstate(divide="ignore"):
        z = room / deviation
    inside, outside, density = stats.norm.cdf(z), stats.norm.sf(z), stats.norm.pdf(z)
    middle = room * outside - deviation * density
    square = deviation**2 * (inside - np.where(np.isfinite(z), z, 0) * density) + room**2 * outside
    return square - middle**2


def _chi2(generator: np.random.Generator, freedom: Array, shape: tuple[int, ...]) -> Array:
    return generator.chisquare(np.where(np.isfinite(freedom), freedom, 1.0), size=shape)


def _noise(generator: np.random.Generator, shape: tuple[int, ...], correlation: float) -> Array:
    """Standard normal noise [seeds, replicates, tasks], equally correlated between tasks."""
    own = generator.standard_normal(shape)
    if not correlation:
        return own
    common = generator.standard_normal((*shape[:-1], 1))
    return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own


def from_values(values: Any, known: Any, weight: Any) -> Evidence:
    """Evidence from differences `[seeds, replicates, tasks]`."""
    values = np.asarray(values)
    seeds = values.shape[0]
    spread = np.var(values, axis=0, ddof=1) if seeds > 1 else np.zeros(values.shape[1:])
    return statistics.evidence(values.mean(axis=0), spread, seeds, known, weight)


def judge(given: Evidence, *, margin: float = 0.01, level: float = 0.95) -> Judged:
    """The words and intervals of comparisons, Holm over the last axis."""
    moderated = statistics.moderate(given)
    freedom, error = moderated.degrees_of_freedom, statistics.standard_error(given, moderated)
    raw = statistics.two_sided_p(given.difference, error, freedom)
    adjusted = statistics.holm(raw)
    equal = statistics.equivalence_p(given.difference, error, freedom, margin)
    low, high = statistics.interval(given.difference, error, freedom, level)
    words = statistics.words(given.difference, adjusted, equal, 1 - level, given.seeds)
    return Judged(words, low, high, given)


@dataclass(frozen=True)
class Stopped:
    """Sequential verdicts on simulated comparisons when they stopped, each `[replicates, tasks]`.

    closed: both at the ceiling, so that no test was made; low and high are then what is possible.
    """

    words: NDArray[np.str_]
    seeds: Array
    low: Array
    high: Array
    closed: Array

    def coverage(self, truth: Any) -> Array:
        """How often each task's interval held the true difference, `[tasks]`."""
        return np.mean((self.low <= truth) & (truth <= self.high), axis=0)


def judge_sequentially(drawn: Drawn, policy: UntilDecided) -> Stopped:
    """Words, seeds used and intervals when looking as `policy` says.

    What sequential.look does, on arrays: a settled task keeps its word and counts as 0 or 1 in Holm.
    """
    shape = drawn.values.shape[1:]
    stopped = Stopped(np.full(shape, "undecided", dtype="<U9"), *(np.zeros(shape) for _ in range(4)))
    settled = np.zeros(shape, bool)
    for index, seeds in enumerate(policy.looks):
        alpha, decided = policy.alpha(index), stopped.words
        given = from_values(drawn.values[:seeds], drawn.known, drawn.weight)
        moderated = statistics.moderate(given)
        freedom, error = moderated.degrees_of_freedom, statistics.standard_error(given, moderated)
        possible = _possible(drawn, seeds, policy.margin)
        closed = np.isfinite(possible[0]) & np.isfinite(possible[1])
        raw = statistics.two_sided_p(given.difference, error, freedom)
        raw = np.where(closed, np.nan, raw)
        raw = np.select([np.isin(decided, ("better", "worse")), settled], [0.0, 1.0], raw)
        equal = statistics.equivalence_p(given.difference, error, freedom, policy.margin)
        found = statistics.words(given.difference, statistics.holm(raw), equal, alpha, given.seeds, possible)
        low, high = statistics.interval(given.difference, error, freedom, policy.interval_level)
        low, high = statistics.within(low, high, possible)
        stopped = Stopped(
            np.where(settled, decided, found),
            np.where(settled, stopped.seeds, seeds),
            np.where(settled, stopped.low, low),
            np.where(settled, stopped.high, high),
            np.where(settled, stopped.closed, closed),
        )
        settled = (stopped.words != "undecided") | (stopped.closed.astype(bool) & policy.leaves_the_ceiling)
    return stopped


def _possible(drawn: Drawn, seeds: int, margin: float) -> statistics.Possible:
    """The least and the most that each difference can be, as `comparison.pair_task` finds them."""
    if drawn.scores is None:
        return np.full(drawn.values.shape[1:], -np.inf), np.full(drawn.values.shape[1:], np.inf)
    room = [1 - score[:seeds] for score in drawn.scores]
    below, above = (np.where(np.all(one <= margin, axis=0), one.mean(axis=0), np.inf) for one in room)
    return -below, above


def designs(settings: Mapping[str, int], tasks: Sequence[str]) -> tuple[Design, ...]:
    """baseline with 1 to 5 seeds, full with 1 to 3."""
    full = tuple(settings[task] for task in tasks)
    baseline = [Design(f"baseline, {n} seed{'s' * (n > 1)}", (1,), n) for n in (1, 2, 3, 5)]
    return (*baseline, *(Design(f"full, {n} seed{'s' * (n > 1)}", full, n) for n in (1, 2, 3)))
