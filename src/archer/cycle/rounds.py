"""The proposals of a campaign, in rounds: made and verified in the background, known by the ledger alone.

A proposal knows everything but what its own round and the round before it find, and knows no more if it is
made later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from archer.cycle.course import KIND, Course, cycles_of, in_words, needs_the_user, own_cycles
from archer.cycle.cycle import ATTEMPTS, first_runs
from archer.cycle.laboratory import Laboratory, repeats
from archer.cycle.watch import Watcher
from archer.ledger.records import CycleRecord, ProposalRecord, VerificationRecord

if TYPE_CHECKING:
    from archer.fleet.run import Run
    from archer.research.researcher import Context


def propose_ahead(course: Course, first: int, end: int) -> None:
    """Makes the proposals from candidate `first`, the first that no cycle has taken up, to before `end` in
    the background. Not while an error there waits for its candidate."""
    from archer.cycle.team import Ahead

    if first < end and not (course.ahead and course.ahead.error):
        quiet = replace(course.lab, watcher=Watcher(), found={}, verified={})

        def propose(number: int) -> None:
            if not course.over:
                proposed(course, quiet, number, number - first)
            if number == end - 1 and not course.over:
                quiet.stand_by()

        course.ahead = Ahead(propose, range(first, end))


def rest_of_round(course: Course, lab: Laboratory, number: int) -> list[ProposalRecord]:
    """The proposals after candidate `number` in its round that passed verification; waits for them."""
    count = course.round_of(number).stop - number - 1
    missing = count - len(tries(course))
    if missing > 0:
        lab.watcher.phase("propose", f"{course.team.name}, {missing} more to train together")
    if count:
        propose_ahead(course, number + 1, course.round_of(number).stop)
    if course.ahead:
        course.ahead.wait()
    made = [tried[-1] for tried in tries(course)[:count]]
    passed = [one for one in made if (kept := kept_verification(lab, one)) and kept.passed]
    lab.found.update({one.rule: one.source for one in passed if not repeats(one)})
    return passed


def runs_along(lab: Laboratory, proposals: Sequence[ProposalRecord]) -> tuple[Run, ...]:
    """What the cycles of these proposals will train first and the ledger does not know."""
    runs: dict[str, Run] = {}
    for proposal in proposals:
        try:
            runs.update({run.key: run for run in first_runs(lab, proposal)})
        except Exception as error:
            if needs_the_user(error):
                raise
            lab.watcher.note(f"{proposal.rule} does not train with the others: {in_words(error)}")
    known = {record.key for record in lab.ledger.runs(keys=[*runs])} if runs else set()
    return tuple(run for key, run in runs.items() if key not in known)


def proposed(course: Course, lab: Laboratory, number: int, place: int = 0) -> ProposalRecord:
    """The proposal of candidate `number`: the first that passes verification, or the last of `ATTEMPTS`.

    What the ledger holds of it, made ahead or before an interruption, is not made again. place: how many
    candidates come before it that no cycle has taken up.
    """
    lab = replace(lab, preset=course.ladder[0].preset)
    tried = next(iter(tries(course)[place:]), [])
    while True:
        if tried:
            found = kept_verification(lab, tried[-1]) or _verify(lab, tried[-1])
            if found.passed or len(tried) >= ATTEMPTS:
                return tried[-1]
        lab.watcher.phase("propose", course.team.name)
        made = course.team.propose(_context(course, lab, number, place))
        if course.over:
            return made
        lab.ledger.add_proposal(made)
        tried.append(made)


def tries(course: Course) -> list[list[ProposalRecord]]:
    """The untaken proposals by candidate: those that were rejected, and then its own. Of the last candidate
    the own one may be missing."""
    found: list[list[ProposalRecord]] = [[]]
    for proposal in untaken(course):
        found[-1].append(proposal)
        kept = kept_verification(course.lab, proposal)
        if kept and (kept.passed or len(found[-1]) == ATTEMPTS):
            found.append([])
    return [tried for tried in found if tried]


def untaken(course: Course) -> list[ProposalRecord]:
    """The proposals that no cycle has taken up, since the last one that a campaign's cycle took: the
    campaign's, and those that were made ahead in the campaign before."""
    cycles, proposals = course.lab.ledger.cycles(), course.lab.ledger.proposals()
    taken, since = {cycle.proposal for cycle in cycles if cycle.settings.get("kind") == KIND}, _since(course)
    others = _of_others(cycles, proposals)
    found: list[ProposalRecord] = []
    for proposal in proposals:
        if proposal.promoted_from or proposal.id in others - taken:
            continue
        if proposal.id in taken:
            found = []
        elif proposal.created_at >= since:
            found.append(proposal)
    return found


def _of_others(cycles: Sequence[CycleRecord], proposals: Sequence[ProposalRecord]) -> set[str]:
    """The proposals of cycles that are no campaign's, as of `archer try`: the one that each took, and those
    that were rejected on the way there. Times are whole seconds: what was made in the second in which such a
    cycle began or took its own counts as the campaign's, and is verified once more at worst."""
    made = {proposal.id: proposal.created_at for proposal in proposals}
    ends = [
        (cycle.started_at, made[cycle.proposal])
        for cycle in cycles
        if cycle.settings.get("kind") != KIND and cycle.proposal in made
    ]
    own = {cycle.proposal for cycle in cycles if cycle.settings.get("kind") != KIND and cycle.proposal}
    return own | {name for name, at in made.items() if any(first < at < last for first, last in ends)}


def _since(course: Course) -> str:
    """When the campaign began, a cycle that it took over included; or the campaign before it, where that was
    the same researcher's on the same ladder and nobody else's campaign came between."""
    campaigns = [cycle for cycle in course.lab.ledger.cycles() if cycle.settings.get("kind") == KIND]
    before = [cycle for cycle in campaigns if cycle.settings["campaign"] != course.asked.id][-1:]
    words = course.asked.words
    same = [
        cycle.settings["started"]
        for cycle in own_cycles(course.lab, words["ladder"])
        if cycle in before and cycle.settings["asked"].get("researcher") == words["researcher"]
    ]
    return min([course.asked.started, *(cycle.started_at for cycle in cycles_of(course)), *same])


def _context(course: Course, lab: Laboratory, number: int, place: int) -> Context:
    """What the proposal of candidate `number` knows: all but what its round and the one before it find. A
    rule of its own round is no parent to it, so that no candidate stands or falls with another one there.
    """
    since, cycles = course.round_of(number, -1).start, cycles_of(course)
    begun = {cycle.proposal: cycle.settings["number"] for cycle in cycles if cycle.proposal}
    waiting = {one.id: number - place + k for k, tried in enumerate(tries(course)) for one in tried}
    pending = {name: at for name, at in (begun | waiting).items() if at >= since}
    context = lab.context(pending, course.asked.words["ladder"])
    own = {name for name, at in pending.items() if at in course.round_of(number)}
    beside = {one.rule for one in context.proposals if one.id in own and not repeats(one)}
    sources = {rule: source for rule, source in context.sources.items() if rule not in beside}
    return replace(context, sources=sources)


def kept_verification(lab: Laboratory, proposal: ProposalRecord) -> VerificationRecord | None:
    """What is known of this very text under this preset; a built-in rule's is known everywhere."""
    if repeats(proposal):
        return lab.known_verification(proposal.rule)
    names = tuple(setting.name for setting in lab.preset.settings)
    anywhere = (names,) if proposal.promoted_from else (names, None)
    for found in reversed(lab.ledger.verifications(rule=proposal.rule)):
        source = lab.ledger.source(found.rule_hash)
        if not found.passed and not proposal.promoted_from:
            return found
        if found.passed and found.measured in anywhere and source and source.source == proposal.source:
            return found
    return None


def _verify(lab: Laboratory, proposal: ProposalRecord) -> VerificationRecord:
    """Checks a proposal, and says why where it is rejected."""
    found = lab.verify(proposal)
    for check in found.checks:
        if not check.passed:
            lab.watcher.note(f"{proposal.rule}: rejected by the check {check.name}: {check.message}")
    return found
