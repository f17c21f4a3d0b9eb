"""A campaign: candidate after candidate, each as far up a ladder of presets as it gets, unattended.

A candidate is proposed and verified, then trained and judged under the cheapest preset; one cycle of the
ledger for every rung it reaches (`archer.cycle.ladder` says who goes up).

Candidates come in rounds, of one for each GPU. A round is trained together under the cheapest preset; then
its candidates are judged, and climb, one after the other. Meanwhile the next round is proposed and verified
in the background (`archer.cycle.rounds`).

The ledger says where a campaign stands (`archer.cycle.course`). So the same call continues an interrupted
campaign, the unfinished cycle first. A campaign is over when its summary is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from archer.cycle.course import (
    KIND,
    Course,
    Step,
    continued,
    cycles_of,
    folder_of,
    gpus,
    in_words,
    needs_the_user,
    next_step,
    proposals_of,
    rest_seconds,
    rung_of,
    spent_by,
)
from archer.cycle.cycle import Result, carry_out, describe_history, say_fallback
from archer.cycle.laboratory import Laboratory, open_laboratory
from archer.cycle.ladder import Rung, above, held_back, ladder_of
from archer.cycle.project import DEFAULT, now
from archer.cycle.rounds import (
    kept_verification,
    propose_ahead,
    proposed,
    rest_of_round,
    runs_along,
    tries,
)
from archer.cycle.training import Resources, check_race, check_resources
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.figures import duration, signed
from archer.ledger.records import CycleRecord, ProposalRecord, VerdictRecord
from archer.mad import Preset
from archer.report.summary import Spent, describe_spent

if TYPE_CHECKING:
    from archer.report.summary import Campaign
    from archer.research.researcher import Researcher

FAILURES = 3
"""How many cycles in a row may break on an unexpected error before a campaign stops with that error."""


@dataclass(frozen=True)
class Discovery:
    """What came of a campaign. reports: its summary, as Markdown and as a page."""

    id: str
    campaign: Campaign
    reports: tuple[Path, ...]
    spent: Spent

    @property
    def cycles(self) -> tuple[CycleRecord, ...]:
        """The campaign's cycles, in order; one that the hours cut off is still running."""
        return self.campaign.cycles


def discover(
    project: str | Path = DEFAULT,
    *,
    cycles: int | None = None,
    hours: float | None = None,
    max_gpu_hours: float | None = None,
    preset: str | Preset | Sequence[Preset] | None = None,
    at_once: int | None = None,
    history: str | Path | None = None,
    seed: int = 0,
    share: float = 0.1,
    researcher: Researcher | None = None,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
    clock: Callable[[], str] = now,
) -> Discovery:
    """Tries candidates until `cycles` of them are through, or `hours` have passed since the campaign began,
    or its training processes have spent `max_gpu_hours` on GPUs.

    preset: the top of the ladder, or its rungs (see `ladder_of`); None: quick and baseline where there is a
    GPU, else smoke. at_once: how many candidates are trained together; None: one for each GPU. share: of all
    proposals, how many are left to luck (random changes, and the best rule under new seeds).

    A candidate that is rejected, diverges or breaks stops nothing. Interrupted, the same call continues;
    where it is over, the same call begins the next campaign. A cycle that a limit cut off is the first of the
    next campaign. clock: the time now, ISO 8601.

    Raises UserError for wrong input, before anything is written.
    """
    from archer.cycle.team import Team
    from archer.research.structured import StructuredResearcher

    resources = resources or Resources()
    _check(cycles, hours, max_gpu_hours, share, at_once)
    ladder = ladder_of(preset, resources.device)
    _check_end(cycles, hours, resources)
    for rung in ladder:
        check_race(resources, rung.preset.name)
        check_resources(resources, rung.preset.settings)
    at_once = at_once or gpus(resources) or 1
    team = Team(researcher or StructuredResearcher(), share, at_once)
    words = {
        "cycles": cycles, "hours": hours, "gpu_hours": max_gpu_hours, "share": share,
        "researcher": team.name, "ladder": list(dict.fromkeys(rung.preset.name for rung in ladder)),
        **({"at_once": at_once} if at_once > 1 else {}),
    }  # fmt: skip
    with open_laboratory(
        project, ladder[0].preset, history=history, seed=seed, resources=resources, watcher=watcher
    ) as lab:
        course = Course(lab, ladder, continued(lab, words, clock), team, clock, at_once)
        lab.stand_by()
        lab.watcher.phase("history", describe_history(lab))
        try:
            _loop(course)
        finally:
            course.over = True
        return _summary(course)


def _check(
    cycles: int | None, hours: float | None, max_gpu_hours: float | None, share: float, at_once: int | None
) -> None:
    if cycles is None and hours is None and max_gpu_hours is None:
        raise UserError("a campaign needs an end: give cycles or hours (--cycles 10 or --hours 8)")
    for name, count in (("cycles", cycles), ("at_once", at_once)):
        if count is not None and count < 1:
            raise UserError(f"{name} is {count}: expected 1 or more")
    for name, value in (("hours", hours), ("max_gpu_hours", max_gpu_hours)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} is {value}: expected a number above 0")
    if not 0 <= share <= 1:
        raise UserError(f"share is {share}: expected a number from 0 to 1")


def _check_end(cycles: int | None, hours: float | None, resources: Resources) -> None:
    """GPU hours alone end nothing where no GPU trains."""
    if cycles is None and hours is None and not gpus(resources):
        raise UserError(
            "max_gpu_hours is the only limit, and training uses no GPU here: the campaign would never end; "
            "give cycles or hours too"
        )


def _loop(course: Course) -> None:
    broken, lab = 0, course.lab
    while True:
        step, spent = next_step(course), spent_by(course)
        rest, cycles = rest_seconds(course, spent), course.asked.words["cycles"]
        if rest <= 0 or (cycles is not None and step.number > cycles):
            return
        lab.watcher.phase("cycle", _standing(course, step, spent, rest))
        try:
            result = _take(course, _at(course, step.rung, rest), step)
        except Exception as error:
            broken += 1
            if needs_the_user(error) or broken == FAILURES:
                raise
            _fail(lab, cycles_of(course)[-1], error)
        else:
            broken = 0
            lab.watcher.note(_outcome(course, result))
            if result.cycle.state == "running":  # a limit was reached in its middle
                return


def _at(course: Course, rung: Rung, rest: float) -> Laboratory:
    """The laboratory on one rung, with what is left to train there."""
    resources = course.lab.resources
    budgets = [seconds for seconds in (rest, resources.budget_seconds) if seconds is not None]
    budget = None if math.isinf(min(budgets)) else min(budgets)
    resources = replace(resources, budget_seconds=budget)
    return replace(
        course.lab, preset=rung.preset, judging=rung.judging, resources=resources, found={}, verified={}
    )


def _take(course: Course, lab: Laboratory, step: Step) -> Result:
    """Takes one step to its end; meanwhile the next round is proposed."""
    cycle = step.cycle or lab.begin(KIND, **course.asked.settings(step.number))
    if course.ahead:
        course.ahead.check(step.number)
    proposal = step.proposal or proposed(course, lab, step.number)
    if not proposal.promoted_from:
        say_fallback(lab, proposal)
    lab.ledger.add_proposal(proposal)
    cycle = lab.put(cycle, proposal=proposal.id)
    kept = kept_verification(lab, proposal)
    if kept and kept.passed:
        lab.found[proposal.rule], lab.verified[proposal.id] = proposal.source, kept
    beside = [] if proposal.promoted_from else rest_of_round(course, lab, step.number)
    if proposal.promoted_from or beside or (kept and kept.passed):
        propose_ahead(course, step.number + 1, course.round_of(step.number, 1).stop)
    lab.along = runs_along(lab, beside)
    result = _carried_out(lab, cycle, proposal)
    if course.ahead:
        course.ahead.wait()
    if result.verdict and not proposal.promoted_from:
        course.team.learn(result.verdict, proposal)
    return result


def _carried_out(lab: Laboratory, cycle: CycleRecord, proposal: ProposalRecord) -> Result:
    """A cycle to its end. Where training together breaks, it trains on its own: whoever broke it will break
    its own cycle alone."""
    try:
        return carry_out(lab, cycle, proposal)
    except Exception as error:
        if not lab.along or needs_the_user(error):
            raise
        lab.watcher.note(f"training together broke, {proposal.rule} trains on its own: {in_words(error)}")
        lab.along = ()
        return carry_out(lab, cycle, proposal)


def _fail(lab: Laboratory, cycle: CycleRecord, error: Exception) -> None:
    """Ends a cycle that broke; what it had put into the ledger stays there."""
    message = in_words(error)
    kept = lab.ledger.cycles(id=cycle.id)[0]
    lab.put(kept, state="failed", finished_at=now(), message=message)
    lab.watcher.note(f"cycle {cycle.id} broke: {message}")


def _standing(course: Course, step: Step, spent: Spent, rest: float) -> str:
    """One line for the person who watches: how far, and what was spent."""
    words = course.asked.words
    parts = [str(step.number) if words["cycles"] is None else f"{step.number} of {words['cycles']}"]
    if len(course.ladder) > 1:
        parts.append(step.rung.name)
    if math.isfinite(rest):
        parts.append(f"{duration(rest, '')} left")
    return ", ".join([*parts, f"{describe_spent(spent)} so far"])


def _outcome(course: Course, result: Result) -> str:
    """What a cycle found, and whether its rule goes up, in a line; its report has the whole verdict."""
    from archer.judge.verdicts import in_short

    name = result.proposal.rule if result.proposal else result.cycle.id
    if not result.verdict or not result.proposal:
        return f"{name}: {result.cycle.state}: {result.cycle.message}"
    verdict = result.verdict
    said = _unjudged(verdict)
    if verdict.ranks:
        said = f"{in_short(verdict.against_reference, verdict.confirmation)}."
    upper = above(course.ladder, rung_of(course, result.cycle))
    if upper is None:
        return f"{name}: {said}"
    if stopped := held_back(result.proposal, verdict, upper):
        return f"{name}: {said} It goes no further: {stopped}."
    more = upper.judging.until_decided
    return f"{name}: {said} It goes up to {f'more seeds of {upper.preset.name}' if more else upper.name}."


def _unjudged(verdict: VerdictRecord) -> str:
    """The mean difference of a preset that ranks nothing, as what it is."""
    mean = verdict.against_reference.mean.difference
    said = "no mean score" if mean is None else f"mean {signed(mean, '')} against {verdict.reference}"
    return f"{said}, not judged: {verdict.preset} ranks nothing."


def _summary(course: Course) -> Discovery:
    """The campaign's records and its note; writing the note ends the campaign."""
    from archer.report import summarise, write
    from archer.report.summary import gather_campaign
    from archer.report.tree import Paragraph, Span

    lab, asked, spent = course.lab, course.asked, spent_by(course)
    lab.watcher.phase("report", "the campaign's summary")
    whole = gather_campaign(lab.ledger, lab.known_rules())
    cycles, proposals = tuple(cycles_of(course)), tuple(proposals_of(course))
    keys = {key for cycle in cycles for key in cycle.run_keys}
    names = {proposal.id for proposal in proposals}
    campaign = replace(
        whole,
        cycles=cycles,
        proposals=proposals,
        verdicts=tuple(verdict for verdict in whole.verdicts if verdict.proposal in names),
        runs=tuple(run for run in whole.runs if run.key in keys),
        spent=spent,
    )
    note = summarise(campaign)
    note = replace(note, lead=(*note.lead, *(Paragraph((Span(line),)) for line in _left_over(course))))
    return Discovery(asked.id, campaign, write(note, folder_of(lab, asked), "summary"), spent)


def _left_over(course: Course) -> list[str]:
    """What a limit left unfinished, and what becomes of it."""
    cut = [cycle for cycle in cycles_of(course) if cycle.state == "running"]
    names = [p.rule for cycle in cut for p in course.lab.ledger.proposals(id=cycle.proposal or "")]
    said = [f"The limit cut off {name}; the next campaign goes on with it." for name in names]
    return said + [
        f"{tried[-1].rule} was proposed and is not tried yet; the next campaign takes it up."
        for tried in tries(course)
    ]
