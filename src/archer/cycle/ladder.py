"""The ladder of a campaign: presets from cheap to dear, and who may go up.

Two things are asked of a verdict. Is there evidence against the goal, to beat the reference on all six tasks:
a word "worse", or a 95% interval that lies wholly below zero, on any task? And is there anything left to win:
is there a task whose interval reaches above the margin? A tie by construction (zero, because a setting is too
short for the change to show) is no evidence against anyone.

The bar is low on purpose. A stop is final, and a mistaken one costs the winner; a mistaken promotion costs
one training. Of rules that equal the reference on all six tasks, at most one in seven is stopped by bad luck
(six intervals, each wholly below zero once in forty times: 1 - 0.975⁶ = 0.14); of rules that are better,
fewer. What the cheap preset takes away are rules that lose somewhere by more than the noise, and those that
change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from archer.cycle.plan import get_preset
from archer.errors import UserError
from archer.ledger.records import TaskComparison, VerdictRecord
from archer.mad import Preset

LADDER = ("quick", "baseline", "full")
"""The presets that rank, from cheap to dear."""

TOP = "baseline"
"""Where a campaign on a GPU ends, unless it is told otherwise."""

MARGIN = 0.01
"""A difference below this is not worth a dearer training (the judge's margin for "same")."""


def ladder_of(asked: str | Preset | Sequence[Preset] | None, device: str | None = None) -> tuple[Preset, ...]:
    """The rungs of a campaign, the cheapest first.

    asked: the preset at the top ("baseline" has "quick" below it; "smoke" stands alone), or the rungs
    themselves, as "quick,full" or as presets. None: "baseline" where there is a GPU to train on, else
    "smoke". Raises UserError for unknown names, and for a rung that is named twice.
    """
    if asked is None:
        from archer.fleet.launch import available_devices

        asked = "smoke" if available_devices(device) == ("cpu",) else TOP
    rungs = _named(asked) if isinstance(asked, str) else asked
    ladder = (rungs,) if isinstance(rungs, Preset) else tuple(rungs)
    names = [preset.name for preset in ladder]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"the ladder is {', '.join(names) or 'empty'}: expected one or more different presets"
        )
    return ladder


def _named(asked: str) -> tuple[Preset, ...]:
    if asked in LADDER:
        return tuple(get_preset(name) for name in LADDER[: LADDER.index(asked) + 1])
    return tuple(get_preset(name.strip()) for name in asked.split(","))


def held_back(verdict: VerdictRecord) -> str:
    """Why a rule does not go up to the next rung, in a sentence; "" where it does.

    Of a preset that ranks nothing no word is believed: there, only a rule without a score is held back.
    """
    tasks = verdict.against_reference.tasks
    without = [task.task for task in tasks if task.difference is None]
    if without:
        return f"{verdict.rule} has no score on {', '.join(without)}"
    if not verdict.ranks:
        return ""
    worse = [task.task for task in tasks if _loses(task)]
    if worse:
        return f"{verdict.rule} is worse than {verdict.reference} on {', '.join(worse)}"
    if not any(_may_win(task) for task in tasks):
        return f"{verdict.rule} cannot be better than {verdict.reference} by {MARGIN} on any task"
    return ""


def _loses(task: TaskComparison) -> bool:
    return task.word == "worse" or (task.high is not None and task.high < 0)


def _may_win(task: TaskComparison) -> bool:
    """Without an interval nothing is excluded."""
    return task.high is None or task.high > MARGIN


def above(ladder: Sequence[Preset], name: str) -> Preset | None:
    """The next rung, None at the top."""
    return next((upper for lower, upper in pairwise(ladder) if lower.name == name), None)
