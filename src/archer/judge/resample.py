"""Intervals by resampling seeds, and settings where they are to stand for others: a second opinion.

With the one to five seeds that are affordable, resampling is too sure of itself: three values resampled
cannot show more spread than three values have. benchmarks/power.py measures by how much
(docs/design/statistics.md). So the words rest on the moderated interval; this one is offered beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from archer.judge.statistics import Array

DRAWS = 4000


def resampled_means(cells: Any, seed: int, *, over_settings: bool = False, draws: int = DRAWS) -> Array:
    """Bootstrap means `[draws]` of paired differences `[settings, seeds]`, seeds resampled whole.

    over_settings: resample the settings too, for a statement about settings like these rather than these.
    """
    values = np.asarray(cells, dtype=float)
    settings, seeds = values.shape
    generator = np.random.default_rng(seed)
    columns = generator.integers(seeds, size=(draws, seeds))
    rows = generator.integers(settings, size=(draws, settings)) if over_settings else None
    if rows is None:
        return values.mean(axis=0)[columns].mean(axis=1)
    return values[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))


def percentile_interval(means: Sequence[float] | Array, level: float) -> tuple[float, float]:
    """The central interval of bootstrap means at `level`."""
    low, high = np.quantile(np.asarray(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
