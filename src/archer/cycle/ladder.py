"""The ladder of a campaign: presets from cheap to dear, and who may go up.

Two things are asked of a verdict. Is there evidence against the goal, to beat the reference on all six tasks:
a word "worse", or a 95% interval that lies wholly below zero, on any task? And is there anything left to win:
is there a task whose interval reaches above the margin, and on which the reference leaves room? Where its own
score lies within the margin of 1 nothing can be better by more; there a loss within the margin is no evidence
against anyone. Nor is a tie by construction (zero, because a setting is too short for the change to show).

The bar is low on purpose. A stop is final, and a mistaken one costs the winner; a mistaken promotion costs
one training. Of rules that equal the reference on all six tasks, at most one in seven is stopped by bad luck
(six intervals, each wholly below zero once in forty times: 1 - 0.975⁶ = 0.14); of rules that are better,
fewer. What the cheap preset takes away are rules that lose somewhere by more than the noise, and those that
change nothing.

The last step is not a dearer preset but more seeds of the same one: they are added to the tasks that are
still open, until they are decided, and what wins is trained again with fresh seeds (see
`archer.cycle.measuring`). On the rungs below nothing is confirmed: that would be paid for rules that may lose
above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from archer.cycle.laboratory import repeats
from archer.cycle.measuring import Judging
from archer.cycle.plan import get_preset
from archer.errors import UserError
from archer.judge.ceiling import MARGIN
from archer.ledger.records import Comparison, ProposalRecord, TaskComparison, VerdictRecord
from archer.mad import Preset

LADDER = ("quick", "baseline", "full")
"""The presets that rank, from cheap to dear."""

TOP = "baseline"
"""Where a campaign on a GPU ends, unless it is told otherwise."""


@dataclass(frozen=True)
class Rung:
    """One step of a ladder: what is trained there, and how it is judged."""

    preset: Preset
    judging: Judging = field(default_factory=Judging)

    @property
    def name(self) -> str:
        """For people, and for the id of a proposal that comes up here."""
        return f"{self.preset.name}{'-until-decided' if self.judging.until_decided else ''}"


def ladder_of(asked: str | Preset | Sequence[Preset] | None, device: str | None = None) -> tuple[Rung, ...]:
    """The rungs of a campaign, the cheapest first, more seeds of the dearest last.

    asked: the preset at the top ("baseline" has "quick" below it; "smoke" stands alone), or the presets
    themselves, as "quick,full" or as values. None: "baseline" where there is a GPU to train on, else "smoke".
    Raises UserError for unknown names, and for a preset that is named twice.
    """
    from archer.judge.sequential import MOST_SEEDS

    if asked is None:
        from archer.fleet.devices import available_devices

        asked = "smoke" if available_devices(device) == ("cpu",) else TOP
    named = _named(asked) if isinstance(asked, str) else asked
    presets = (named,) if isinstance(named, Preset) else tuple(named)
    names = [preset.name for preset in presets]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"the ladder is {', '.join(names) or 'empty'}: expected one or more different presets"
        )
    if not presets[-1].ranks:
        return tuple(Rung(preset) for preset in presets)
    more_seeds = Rung(presets[-1], Judging(until_decided=max(MOST_SEEDS, presets[-1].seeds)))
    return (*(Rung(preset, Judging(confirm=False)) for preset in presets), more_seeds)


def _named(asked: str) -> tuple[Preset, ...]:
    if asked in LADDER:
        return tuple(get_preset(name) for name in LADDER[: LADDER.index(asked) + 1])
    return tuple(get_preset(name.strip()) for name in asked.split(","))


def held_back(proposal: ProposalRecord, verdict: VerdictRecord, upper: Rung) -> str:
    """Why a rule does not go up to this rung, in a sentence; "" where it does.

    Of a preset that ranks nothing no word is believed: there, only a rule without a score is held back. A
    control that repeats a rule has said how lucky that was once it is judged: it climbed when it was new.
    """
    if repeats(proposal):
        return f"{verdict.rule} was trained once more to see how lucky it had been"
    against = verdict.against_reference
    without = [task.task for task in against.tasks if task.difference is None]
    if without:
        return f"{verdict.rule} has no score on {', '.join(without)}"
    if not verdict.ranks:
        return ""
    worse = [task.task for task in against.tasks if _loses(task)]
    if worse:
        return f"{verdict.rule} is worse than {verdict.reference} on {', '.join(worse)}"
    if not any(_may_win(task) for task in against.tasks):
        excluded = f"{verdict.rule} cannot be better than {verdict.reference} by {MARGIN} on any task"
        return f"{excluded}{_full(against)}"
    if upper.judging.until_decided and _settled(against):
        return "all six tasks are decided, and nothing was won"
    return ""


def _loses(task: TaskComparison) -> bool:
    """Where the reference leaves no room nobody can be better, so that there only a loss by more than the
    margin counts."""
    if task.no_room:
        return task.high is not None and task.high < -MARGIN
    return task.word == "worse" or (task.high is not None and task.high < 0)


def _may_win(task: TaskComparison) -> bool:
    """Without an interval nothing is excluded, but where the reference leaves no room everything is."""
    return not task.no_room and (task.high is None or task.high > MARGIN)


def _full(against: Comparison) -> str:
    """Where nothing can be won, whatever is measured; "" where there is no such task."""
    tasks = [task.task for task in against.tasks if task.no_room]
    return f", and {against.baseline} leaves no room on {', '.join(tasks)}" if tasks else ""


def _settled(against: Comparison) -> bool:
    """Whether more seeds have nothing to decide and nothing to confirm."""
    from archer.judge import claim_of

    open_tasks = [task for task in against.tasks if task.word == "undecided" and task.no_room != "both"]
    return claim_of(against) is None and not open_tasks


def above(ladder: Sequence[Rung], rung: Rung) -> Rung | None:
    """The next rung, None at the top."""
    return next((upper for lower, upper in pairwise(ladder) if lower == rung), None)
