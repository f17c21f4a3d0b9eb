"""The ceiling of a task: where no larger difference is possible, and after how many epochs a run is there.

No score exceeds 1. Where a rule has 1 - margin or more, none can be better by more than the margin: that is
arithmetic about the runs at hand and needs no test. A seed that was not trained may still fall: two rules are
called the same there only after many seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from archer.ledger.records import RunRecord

MARGIN = 0.01
"""Differences below this are the same, unless another margin is named."""

FAILING, UNSEEN = 0.25, 0.05
"""A rule that fails this share of the seeds is called the same as one that never does this rarely at most."""

SURE_SEEDS = math.ceil(math.log(UNSEEN) / math.log(1 - FAILING))
"""So many seeds at the ceiling show that: eleven, for 0.75 to the eleventh is 0.042."""

STOP_ACCURACY = 0.999
"""Where training stops, on validation and test data, in runs that do not say it (`Recipe.stop_accuracy`)."""


def headroom(scores: Iterable[float | None], margin: float = MARGIN) -> float:
    """How far another rule could be above these scores on average; infinite unless all are at the ceiling.

    scores: of one rule, one for each setting and seed.
    """
    found = [score for score in scores if score is not None]
    return sum(1 - score for score in found) / len(found) if at_ceiling(found, margin) else math.inf


def at_ceiling(scores: Iterable[float | None], margin: float = MARGIN) -> bool:
    """Whether there are scores, and all of them lie within the margin of 1."""
    found = list(scores)
    return bool(found) and all(score is not None and score >= 1 - margin for score in found)


def solved_after(run: RunRecord) -> int | None:
    """Epochs until the run reached the stop accuracy on validation and test data; None where it did not.

    Runs out of a CSV table have no curve. There a run that ended before its last epoch had reached it, for
    nothing else ends a run that finishes.
    """
    if run.status != "finished":
        return None
    recipe = run.effective.get("recipe") or {}
    stop = recipe.get("stop_accuracy", STOP_ACCURACY)
    if run.curve:
        reached = (
            point.epoch
            for point in run.curve
            if _least(point.validation_accuracy, point.test_accuracy) >= stop
        )
        return next(reached, None)
    last = recipe.get("epochs") or _planned_epochs(run.preset)
    early = last is not None and run.epochs < last
    return run.epochs if early or _least(run.validation, run.held_out) >= stop else None


def _least(*values: float | None) -> float:
    return min(-1.0 if value is None else value for value in values)


def _planned_epochs(preset: str) -> int | None:
    """Of the preset, also of another schedule or width (`quick-cosine`); None where it is not known."""
    from archer.mad.presets import PRESETS

    known = PRESETS.get(preset.partition("-")[0])
    return known.epochs if known else None
