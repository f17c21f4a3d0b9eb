"""What the tables say about slots: a Gaussian process over compositions, one per task.

Scores are compared on a stretched scale (a logit whose ends are softened), where a step from 0.95 to 0.99
counts like one from 0.5 to 0.8. On that scale a rule is: the level of its source (a preset, or a table's
protocol) + the effects of its slots + small interactions + noise. Two rules share an effect as far as they
share the slot, the family, the label and the constants. Effects of slots that act on the state only are
scaled by the share of settings that are longer than a chunk: elsewhere they are zero by construction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from archer.research.space import ORDER, Composition

Array = NDArray[np.floating]

SOFTENING = 0.004
"""Distance from 0 and 1 below which scores are not told apart."""

SLOT_SHARE, FAMILY_SHARE, LABEL_SHARE = 0.1, 0.3, 0.6
CHANGE_SHARE = 0.3
"""Variance of what any change costs or brings, whatever it is: more changes, more of it."""
INTERACTION = 0.15
LEVEL_VARIANCE = 4.0
TRANSFER = 0.7
"""Correlation of an effect between two sources (presets, protocols) of different kind."""

EFFECT_SCALES = (0.35, 0.7, 1.4)
NOISE_SCALES = (0.06, 0.15, 0.35)


def stretch(score: Array | float) -> Array:
    """Scores to the scale on which effects add up."""
    p = (np.asarray(score, dtype=float) + SOFTENING) / (1 + 2 * SOFTENING)
    return np.log(p / (1 - p))


def unstretch(value: Array | float) -> Array:
    """Back to scores, within 0 to 1."""
    p = 1 / (1 + np.exp(-np.asarray(value, dtype=float)))
    return np.clip(p * (1 + 2 * SOFTENING) - SOFTENING, 0, 1)


@dataclass(frozen=True)
class Point:
    """One measurement of one task. sd: the standard deviation of its noise, in units of the score, if
    known."""

    composition: Composition
    source: str
    score: float
    sd: float | None = None


@dataclass(frozen=True)
class Belief:
    """What is expected of some compositions, on the stretched scale. covariance [n, n] without noise.

    noise: the standard deviation that a measurement adds.
    """

    mean: Array
    covariance: Array
    noise: float

    def interval(self, index: int, z: float) -> tuple[float, float, float]:
        """Middle, low and high of a measurement of composition `index`, as scores; z normal deviations
        wide."""
        sd = math.sqrt(max(self.covariance[index, index], 0.0) + self.noise**2)
        middle = float(self.mean[index])
        low, score, high = unstretch(np.array([middle - z * sd, middle, middle + z * sd]))
        return float(score), float(low), float(high)


@dataclass(frozen=True)
class TaskSurrogate:
    """A fitted process for one task. reached: the share of settings longer than a chunk, by source."""

    points: tuple[Point, ...]
    reached: Mapping[str, float]
    effect: float
    noise: float
    weights: Array = field(repr=False)
    factor: Array = field(repr=False)
    level: float = 0.0

    def believe(self, compositions: Sequence[Composition], source: str) -> Belief:
        """Joint belief about compositions, as `source` would measure them."""
        new = Encoded.of(compositions, [source] * len(compositions), self.reached)
        if not self.points:
            return Belief(np.full(len(compositions), self.level), _kernel(new, new, self.effect), self.noise)
        old = Encoded.of([p.composition for p in self.points], [p.source for p in self.points], self.reached)
        cross = _kernel(new, old, self.effect)
        solved = np.linalg.solve(self.factor, cross.T)
        mean = self.level + cross @ self.weights
        return Belief(mean, _kernel(new, new, self.effect) - solved.T @ solved, self.noise)

    def against(
        self, compositions: Sequence[Composition], other: Composition, source: str
    ) -> tuple[Array, Array]:
        """Mean and standard deviation, without noise, of each composition minus `other`, as `source`
        measures."""
        new = Encoded.of(compositions, [source] * len(compositions), self.reached)
        one = Encoded.of([other], [source], self.reached)
        prior = (
            _diagonal(new, self.effect)
            + _diagonal(one, self.effect)
            - 2 * _kernel(new, one, self.effect)[:, 0]
        )
        if not self.points:
            return np.zeros(len(compositions)), np.sqrt(np.maximum(prior, 0))
        old = Encoded.of([p.composition for p in self.points], [p.source for p in self.points], self.reached)
        cross = _kernel(new, old, self.effect) - _kernel(one, old, self.effect)
        solved = np.linalg.solve(self.factor, cross.T)
        return cross @ self.weights, np.sqrt(np.maximum(prior - (solved**2).sum(0), 0))


def fit(points: Sequence[Point], reached: Mapping[str, float]) -> TaskSurrogate:
    """Fit one task. The sizes of effects and noise are those, of a small grid, that explain the points
    best."""
    points = tuple(points)
    level = float(np.mean(stretch(np.array([p.score for p in points])))) if points else 0.0
    if not points:
        empty = np.zeros((0,))
        return TaskSurrogate((), reached, EFFECT_SCALES[1], NOISE_SCALES[1], empty, np.zeros((0, 0)), level)
    encoded = Encoded.of([p.composition for p in points], [p.source for p in points], reached)
    target = stretch(np.array([p.score for p in points])) - level
    fits = [_fit_one(points, encoded, target, e, n) for e in EFFECT_SCALES for n in NOISE_SCALES]
    _, effect, noise, weights, factor = max(fits, key=lambda found: found[0])
    return TaskSurrogate(points, reached, effect, noise, weights, factor, level)


def _fit_one(
    points: tuple[Point, ...], encoded: Encoded, target: Array, effect: float, noise: float
) -> tuple[float, float, float, Array, Array]:
    """Log marginal likelihood (with a weak pull to the middle of the grid) and the solution."""
    variances = np.array([_noise_variance(p, noise) for p in points])
    factor = np.linalg.cholesky(_kernel(encoded, encoded, effect) + np.diag(variances))
    whitened = np.linalg.solve(factor, target)
    weights: Array = np.linalg.solve(factor.T, whitened)
    pull = abs(math.log(effect / EFFECT_SCALES[1])) + abs(math.log(noise / NOISE_SCALES[1]))
    likelihood = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(factor)).sum()) - pull
    return likelihood, effect, noise, weights, factor


def _noise_variance(point: Point, noise: float) -> float:
    """A measured spread counts where it is the larger one: seeds do not show all that differs between
    runs."""
    if point.sd is None:
        return noise**2
    p = (point.score + SOFTENING) / (1 + 2 * SOFTENING)
    return max((point.sd / (p * (1 - p))) ** 2, (noise / 2) ** 2)


@dataclass(frozen=True)
class Encoded:
    """Compositions as arrays. label, family [n, slots]: numbers, -1 for plain. constants [n, slots,
    width]."""

    label: NDArray[np.int64]
    family: NDArray[np.int64]
    constants: Array
    weight: Array
    source: NDArray[np.int64]

    @staticmethod
    def of(
        compositions: Sequence[Composition], sources: Sequence[str], reached: Mapping[str, float]
    ) -> Encoded:
        """Encode; equal texts get equal numbers in every call."""
        n, slots = len(compositions), len(_SLOT_INDEX)
        label, family = np.full((n, slots), -1), np.full((n, slots), -1)
        constants, weight = np.zeros((n, slots, _WIDTH)), np.zeros((n, slots))
        for row, (composition, source) in enumerate(zip(compositions, sources, strict=True)):
            for choice in composition:
                column = _SLOT_INDEX[choice.slot]
                label[row, column], family[row, column] = _number(choice.label), _number(choice.family)
                values = choice.constants[:_WIDTH]
                constants[row, column, : len(values)] = values
                weight[row, column] = math.sqrt(reached.get(source, 1.0)) if choice.reads_state else 1.0
        numbers = np.array([_number(source) for source in sources], dtype=np.int64)
        return Encoded(label, family, constants, weight, numbers)


_SLOT_INDEX = {slot: index for index, slot in enumerate(ORDER)}
_WIDTH = 4
_NUMBERS: dict[str, int] = {}


def _number(text: str) -> int:
    return _NUMBERS.setdefault(text, len(_NUMBERS))


def _diagonal(a: Encoded, effect: float) -> Array:
    """The prior variance [n] of each composition: the diagonal of `_kernel(a, a)`."""
    parts = (a.label >= 0) * a.weight**2 * (SLOT_SHARE + FAMILY_SHARE + LABEL_SHARE)
    total = parts.sum(1)
    count = CHANGE_SHARE * _count(a) ** 2
    return effect**2 * (total + count + INTERACTION * (total**2 - (parts**2).sum(1)) / 2) + LEVEL_VARIANCE


def _count(a: Encoded) -> Array:
    """How many slots are changed [n], as far as they can show."""
    return ((a.label >= 0) * a.weight).sum(1)


def _kernel(a: Encoded, b: Encoded, effect: float) -> Array:
    """Prior covariance [n, m] of levels and effects."""
    total, squares = np.zeros((len(a.label), len(b.label))), np.zeros((len(a.label), len(b.label)))
    for slot in range(len(_SLOT_INDEX)):
        la, lb = a.label[:, slot, None], b.label[None, :, slot]
        changed = (la >= 0) & (lb >= 0)
        if not changed.any():
            continue
        steps = a.constants[:, None, slot] - b.constants[None, :, slot]
        alike = np.exp(-0.5 * (steps**2).sum(-1))
        same_family = a.family[:, slot, None] == b.family[None, :, slot]
        part = SLOT_SHARE + FAMILY_SHARE * same_family + LABEL_SHARE * (la == lb) * (0.4 + 0.6 * alike)
        part = part * changed * (a.weight[:, slot, None] * b.weight[None, :, slot])
        total, squares = total + part, squares + part**2
    count = CHANGE_SHARE * np.outer(_count(a), _count(b))
    effects = total + count + INTERACTION * (total**2 - squares) / 2
    same = a.source[:, None] == b.source[None, :]
    return effect**2 * effects * np.where(same, 1.0, TRANSFER) + LEVEL_VARIANCE * same
