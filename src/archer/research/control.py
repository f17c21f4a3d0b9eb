"""The control arms: random proposals and repeats of the best rule, so that luck can be told from a
researcher.

A stated share of all proposals goes to them, decided by seed and count alone. Random proposals are drawn from
the same space and carry the same kind of predictions; repeats train the best rule so far under a new seed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np

from archer.ledger.records import TASKS, ProposalRecord, VerdictRecord
from archer.research.researcher import Context, ResearchError, proposal_id
from archer.research.space import Space
from archer.research.structured import fit_tasks, parents, predict, untried, write_proposal

Arm = Literal["researcher", "random", "repeat"]
SHARE = 0.1


def arm(context: Context, share: float = SHARE) -> Arm:
    """Whose turn it is. The control arms get `share` of all proposals, in turns; the first is the
    researcher's.

    Raises ResearchError for a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ResearchError(f"the control arms' share is {share}: expected a number from 0 to 1")
    number = len(context.proposals)
    offset = np.random.default_rng([context.seed, 7]).random() * (1 - share)
    before, now = int(number * share + offset), int((number + 1) * share + offset)
    if before == now:
        return "researcher"
    return "random" if now % 2 or incumbent(context) is None else "repeat"


def incumbent(context: Context) -> str | None:
    """The best rule measured on all six tasks under this preset, the base and the reference aside, of those
    that were repeated least: how lucky one was is known once it was."""
    scores: dict[str, dict[str, float]] = {}
    for m in context.measured:
        if m.source == context.preset and m.score is not None and m.rule in context.sources:
            scores.setdefault(m.rule, {})[m.task] = m.score
    complete = {
        rule: sum(by_task.values()) / len(TASKS)
        for rule, by_task in scores.items()
        if set(by_task) == set(TASKS) and rule not in (context.base, context.reference)
    }
    repeated = Counter(p.rule for p in context.proposals if p.researcher == RepeatResearcher.name)
    return max(complete, key=lambda rule: (-repeated[rule], complete[rule], rule)) if complete else None


class RandomResearcher:
    """Any untried single change of any known rule, each as likely as the other."""

    name = "random"

    def propose(self, context: Context) -> ProposalRecord:
        """A random change, with the surrogate's predictions."""
        space = Space(context.sources, context.base)
        surrogates = fit_tasks(context, space)
        candidates = untried(context, space, parents(context, space, surrogates))
        generator = np.random.default_rng([context.seed, len(context.proposals), 1])
        change = candidates[int(generator.integers(len(candidates)))]
        record = write_proposal(context, space, surrogates, change, self.name)
        reason = f"A control: drawn at random from {len(candidates)} untried changes. {record.reason}"
        return replace(record, reason=reason, control=True)

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """Luck learns nothing."""


class RepeatResearcher:
    """The best rule that was repeated least, once more: how much of its score was luck."""

    name = "repeat"

    def propose(self, context: Context) -> ProposalRecord:
        """The incumbent, unchanged. Raises ResearchError where nothing was measured yet."""
        best = incumbent(context)
        if best is None:
            raise ResearchError("no rule has scores on all six tasks yet: there is nothing to repeat")
        space = Space(context.sources, context.base)
        rule = space.rules[best]
        return ProposalRecord(
            id=proposal_id(self.name, rule.source, context),
            rule=best,
            parent=rule.parent or context.base,
            slots=tuple(rule.functions),
            source=rule.source,
            reason=f"A control: of the rules that were repeated least {best} has the best mean; it is "
            "trained again with fresh seeds.",
            predictions=predict(context, fit_tasks(context, space), space.composition(best), self.name),
            researcher=self.name,
            created_at=context.now,
            control=True,
        )

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """A repeat learns nothing; its runs speak in the ledger."""


CONTROLS = {"random": RandomResearcher, "repeat": RepeatResearcher}
"""The researcher of each control arm."""
