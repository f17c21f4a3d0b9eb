"""A campaign: candidate after candidate, each as far up a ladder of presets as it gets, unattended.

A candidate is proposed and verified, then trained and judged under the cheapest preset; one cycle of the
ledger for every rung it reaches (`archer.cycle.ladder` says who goes up).

Candidates come in rounds, of one for each GPU. A round is trained together under the cheapest preset; then
its candidates are judged, and climb, one after the other. Meanwhile the next round is proposed and verified
in the background. A proposal knows everything but what its own round and the round before it find, and knows
no more if it is made later.

The ledger says where a campaign stands: each of its cycles bears the campaign's number, what was asked for
and when it began. So the same call continues an interrupted campaign, the unfinished cycle first. A campaign
is over when its summary is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archer.cycle.cycle import ATTEMPTS, Result, carry_out, describe_history, first_runs, say_fallback
from archer.cycle.laboratory import Laboratory, open_laboratory, repeats
from archer.cycle.ladder import Rung, above, held_back, ladder_of
from archer.cycle.project import DEFAULT, now
from archer.cycle.training import Resources, check_race, check_resources
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.ledger.records import CycleRecord, ProposalRecord, VerdictRecord, VerificationRecord
from archer.mad import Preset
from archer.report.summary import Spent

if TYPE_CHECKING:
    from archer.cycle.team import Ahead, Team
    from archer.fleet.run import Run
    from archer.report.summary import Campaign
    from archer.research.researcher import Context, Researcher

KIND = "discover"
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


@dataclass(frozen=True)
class _Asked:
    """What makes two calls the same, and where the campaign of that call stands."""

    words: dict[str, Any]
    id: str
    started: str

    def settings(self, number: int) -> dict[str, Any]:
        return {"campaign": self.id, "started": self.started, "asked": self.words, "number": number}


@dataclass(frozen=True)
class _Step:
    """What a campaign does next: candidate `number` on a rung, or its cycle that was interrupted there.

    proposal: None for a candidate that is not proposed yet.
    """

    number: int
    rung: Rung
    cycle: CycleRecord | None = None
    proposal: ProposalRecord | None = None


@dataclass
class _Course:
    """A campaign on its way. at_once: candidates in a round. ahead: what goes on in the background. over:
    nothing more is to be kept."""

    lab: Laboratory
    ladder: tuple[Rung, ...]
    asked: _Asked
    team: Team
    clock: Callable[[], str]
    at_once: int = 1
    ahead: Ahead | None = None
    over: bool = False

    def round_of(self, number: int, later: int = 0) -> range:
        """The candidates of the round of this one, or of a round so many later (earlier: below 0)."""
        first = ((number - 1) // self.at_once + later) * self.at_once + 1
        cycles = self.asked.words["cycles"]
        end = first + self.at_once
        return range(first, end if cycles is None else min(end, cycles + 1))


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
    team, at_once = Team(researcher or StructuredResearcher(), share), at_once or _gpus(resources) or 1
    words = {
        "cycles": cycles, "hours": hours, "gpu_hours": max_gpu_hours, "share": share,
        "researcher": team.name, "ladder": list(dict.fromkeys(rung.preset.name for rung in ladder)),
        **({"at_once": at_once} if at_once > 1 else {}),
    }  # fmt: skip
    with open_laboratory(
        project, ladder[0].preset, history=history, seed=seed, resources=resources, watcher=watcher
    ) as lab:
        course = _Course(lab, ladder, _continued(lab, words, clock), team, clock, at_once)
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
    if cycles is None and hours is None and not _gpus(resources):
        raise UserError(
            "max_gpu_hours is the only limit, and training uses no GPU here: the campaign would never end; "
            "give cycles or hours too"
        )


def _gpus(resources: Resources) -> int:
    """How many GPUs train."""
    from archer.fleet.launch import available_devices

    return sum(device.startswith("cuda") for device in available_devices(resources.device))


# Where a campaign stands, as the ledger tells it


def _own(lab: Laboratory, ladder: list[str], campaign: str | None = None) -> list[CycleRecord]:
    """This ladder's, seed's and history's cycles of a campaign, or of all."""
    same = {"kind": KIND, "history": lab.history_digest}
    return [
        cycle
        for cycle in lab.ledger.cycles(preset=ladder)
        if cycle.seed == lab.seed
        and {key: cycle.settings.get(key) for key in same} == same
        and cycle.settings["asked"].get("ladder", [cycle.preset]) == ladder
        and campaign in (None, cycle.settings["campaign"])
    ]


def _cycles(course: _Course) -> list[CycleRecord]:
    """This campaign's cycles."""
    return _own(course.lab, course.asked.words["ladder"], course.asked.id)


def _continued(lab: Laboratory, words: dict[str, Any], clock: Callable[[], str]) -> _Asked:
    """The campaign of the same words that is not over, or a new one, which takes an unfinished cycle over."""
    own = _own(lab, words["ladder"])
    if own:
        last = own[-1].settings
        asked = _Asked(last["asked"], last["campaign"], last["started"])
        if asked.words == words and not (_folder(lab, asked) / "summary.md").exists():
            lab.watcher.note(f"continuing campaign {asked.id}, begun {asked.started}")
            return asked
    taken = {c.settings["campaign"] for c in lab.ledger.cycles() if c.settings.get("kind") == KIND}
    asked = _Asked(words, f"{len(taken) + 1:04d}", clock())
    for cycle in own:
        if cycle.state == "running":
            lab.put(cycle, settings=cycle.settings | asked.settings(1))
    return asked


def _next_step(course: _Course) -> _Step:
    """What comes after the last cycle: its rest, the next rung for its rule, or the next candidate."""
    own = _cycles(course)
    if not own:
        return _Step(1, course.ladder[0])
    last, number = own[-1], own[-1].settings["number"]
    if last.state == "running":
        kept = course.lab.ledger.proposals(id=last.proposal or "")
        rung = _rung(course, last)
        return _Step(number, rung, last, kept[0] if kept else _rising(course, own[:-1]))
    rising, upper = _rising(course, own), above(course.ladder, _rung(course, last))
    return _Step(number, upper, None, rising) if rising and upper else _Step(number + 1, course.ladder[0])


def _rung(course: _Course, cycle: CycleRecord) -> Rung:
    """Where a cycle stands on the ladder."""
    seeds = cycle.settings.get("until_decided")
    places = ((rung.preset.name, rung.judging.until_decided) for rung in course.ladder)
    return course.ladder[list(places).index((cycle.preset, seeds))]


def _rising(course: _Course, ended: Sequence[CycleRecord]) -> ProposalRecord | None:
    """The rule of the last of these cycles as it comes to the next rung, where it goes up."""
    upper = above(course.ladder, _rung(course, ended[-1])) if ended else None
    if upper is None or ended[-1].proposal is None:
        return None
    (proposal,) = course.lab.ledger.proposals(id=ended[-1].proposal)
    verdicts = course.lab.ledger.verdicts(proposal=proposal.id)
    goes_up = verdicts and not held_back(verdicts[-1], upper)
    return _promoted(proposal, _rung(course, ended[-1]), upper) if goes_up else None


def _promoted(proposal: ProposalRecord, lower: Rung, upper: Rung) -> ProposalRecord:
    """The rule once more, on a dearer rung; its predictions were for the cheapest one alone."""
    first = proposal.promoted_from or proposal.id
    reason = proposal.reason.partition(". ")[2] if proposal.promoted_from else proposal.reason
    return replace(
        proposal, id=f"{first}-{upper.name}", promoted_from=first, predictions=(), cost={},
        reason=f"Promoted from {lower.name}. {reason}", created_at=now(),
    )  # fmt: skip


def _spent(course: _Course) -> Spent:
    """What the ledger says that the campaign has used."""
    lab, own = course.lab, _cycles(course)
    return Spent(
        sum(cycle.wall_seconds or 0.0 for cycle in own),
        _gpu_seconds(lab, own, course.asked.started),
        sum(proposal.cost.get("dollars", 0.0) for proposal in _proposals(course)),
    )


def _gpu_seconds(lab: Laboratory, own: Sequence[CycleRecord], since: str) -> float:
    """Of the runs that ended on a GPU since the campaign began, those of other cycles alone left out.

    A run's wall time is its share of its process's, so that the sum is that of the processes; of those,
    several share a GPU. Runs of an interrupted cycle count too, although no cycle names them yet.
    """
    from archer.fleet.launch import available_devices, processes_per_device

    named, names = {key for cycle in own for key in cycle.run_keys}, {cycle.id for cycle in own}
    others = {key for c in lab.ledger.cycles() if c.id not in names for key in c.run_keys} - named
    seconds = sum(
        run.wall_seconds
        for run in lab.ledger.runs()
        if run.finished_at >= since and run.key not in others and run.device not in ("", "cpu")
    )
    return seconds / processes_per_device(available_devices(lab.resources.device)) if seconds else 0.0


# The work


def _loop(course: _Course) -> None:
    broken, lab = 0, course.lab
    while True:
        step, spent = _next_step(course), _spent(course)
        rest, cycles = _rest_seconds(course, spent), course.asked.words["cycles"]
        if rest <= 0 or (cycles is not None and step.number > cycles):
            return
        lab.watcher.phase("cycle", _standing(course, step, spent, rest))
        try:
            result = _take(course, _at(course, step.rung, rest), step)
        except Exception as error:
            broken += 1
            if _needs_the_user(error) or broken == FAILURES:
                raise
            _fail(lab, _cycles(course)[-1], error)
        else:
            broken = 0
            lab.watcher.note(_outcome(course, result))
            if result.cycle.state == "running":  # a limit was reached in its middle
                return


def _at(course: _Course, rung: Rung, rest_seconds: float) -> Laboratory:
    """The laboratory on one rung, with what is left to train there."""
    resources = course.lab.resources
    budgets = [seconds for seconds in (rest_seconds, resources.budget_seconds) if seconds is not None]
    budget = None if math.isinf(min(budgets)) else min(budgets)
    resources = replace(resources, budget_seconds=budget)
    return replace(
        course.lab, preset=rung.preset, judging=rung.judging, resources=resources, found={}, verified={}
    )


def _take(course: _Course, lab: Laboratory, step: _Step) -> Result:
    """Takes one step to its end; meanwhile the next round is proposed."""
    cycle = step.cycle or lab.begin(KIND, **course.asked.settings(step.number))
    if course.ahead:
        course.ahead.check(step.number)
    proposal = step.proposal or _proposed(course, lab, step.number)
    if not proposal.promoted_from:
        say_fallback(lab, proposal)
    lab.ledger.add_proposal(proposal)
    cycle = lab.put(cycle, proposal=proposal.id)
    kept = _verification(lab, proposal)
    if kept and kept.passed:
        lab.found[proposal.rule], lab.verified[proposal.id] = proposal.source, kept
    beside = [] if proposal.promoted_from else _rest_of_round(course, lab, step.number)
    if proposal.promoted_from or beside or (kept and kept.passed):
        _propose_ahead(course, step.number + 1, course.round_of(step.number, 1).stop)
    lab.along = _runs_along(lab, beside)
    result = _carried_out(lab, cycle, proposal)
    if course.ahead:
        course.ahead.wait()
    if result.verdict and not proposal.promoted_from:
        course.team.learn(result.verdict, proposal)
    return result


def _propose_ahead(course: _Course, first: int, end: int) -> None:
    """Makes the proposals from candidate `first`, the first that no cycle has taken up, to before `end` in
    the background. Not while an error there waits for its candidate."""
    from archer.cycle.team import Ahead

    if first < end and not (course.ahead and course.ahead.error):
        quiet = replace(course.lab, watcher=Watcher(), found={}, verified={})

        def propose(number: int) -> None:
            if not course.over:
                _proposed(course, quiet, number, number - first)
            if number == end - 1 and not course.over:
                quiet.stand_by()

        course.ahead = Ahead(propose, range(first, end))


def _rest_of_round(course: _Course, lab: Laboratory, number: int) -> list[ProposalRecord]:
    """The proposals after candidate `number` in its round that passed verification; waits for them."""
    count = course.round_of(number).stop - number - 1
    missing = count - len(_tries(course))
    if missing > 0:
        lab.watcher.phase("propose", f"{course.team.name}, {missing} more to train together")
    if count:
        _propose_ahead(course, number + 1, course.round_of(number).stop)
    if course.ahead:
        course.ahead.wait()
    made = [tried[-1] for tried in _tries(course)[:count]]
    passed = [one for one in made if (kept := _verification(lab, one)) and kept.passed]
    lab.found.update({one.rule: one.source for one in passed if not repeats(one)})
    return passed


def _runs_along(lab: Laboratory, proposals: Sequence[ProposalRecord]) -> tuple[Run, ...]:
    """What the cycles of these proposals will train first and the ledger does not know."""
    runs: dict[str, Run] = {}
    for proposal in proposals:
        try:
            runs.update({run.key: run for run in first_runs(lab, proposal)})
        except Exception as error:
            if _needs_the_user(error):
                raise
            lab.watcher.note(f"{proposal.rule} does not train with the others: {_named(error)}")
    known = {record.key for record in lab.ledger.runs(keys=[*runs])} if runs else set()
    return tuple(run for key, run in runs.items() if key not in known)


def _carried_out(lab: Laboratory, cycle: CycleRecord, proposal: ProposalRecord) -> Result:
    """A cycle to its end. Where training together breaks, it trains on its own: whoever broke it will break
    its own cycle alone."""
    try:
        return carry_out(lab, cycle, proposal)
    except Exception as error:
        if not lab.along or _needs_the_user(error):
            raise
        lab.watcher.note(f"training together broke, {proposal.rule} trains on its own: {_named(error)}")
        lab.along = ()
        return carry_out(lab, cycle, proposal)


def _proposed(course: _Course, lab: Laboratory, number: int, place: int = 0) -> ProposalRecord:
    """The proposal of candidate `number`: the first that passes verification, or the last of `ATTEMPTS`.

    What the ledger holds of it, made ahead or before an interruption, is not made again. place: how many
    candidates come before it that no cycle has taken up.
    """
    lab = replace(lab, preset=course.ladder[0].preset)
    tried = next(iter(_tries(course)[place:]), [])
    while True:
        if tried:
            found = _verification(lab, tried[-1]) or _verify(lab, tried[-1])
            if found.passed or len(tried) >= ATTEMPTS:
                return tried[-1]
        lab.watcher.phase("propose", course.team.name)
        made = course.team.propose(_context(course, lab, number, place))
        if course.over:
            return made
        lab.ledger.add_proposal(made)
        tried.append(made)


def _tries(course: _Course) -> list[list[ProposalRecord]]:
    """The untaken proposals by candidate: those that were rejected, and then its own. Of the last candidate
    the own one may be missing."""
    tries: list[list[ProposalRecord]] = [[]]
    for proposal in _untaken(course):
        tries[-1].append(proposal)
        kept = _verification(course.lab, proposal)
        if kept and (kept.passed or len(tries[-1]) == ATTEMPTS):
            tries.append([])
    return [tried for tried in tries if tried]


def _untaken(course: _Course) -> list[ProposalRecord]:
    """The proposals that no cycle has taken up, since the last one that a cycle took: the campaign's, and
    those that were made ahead in the campaign before."""
    taken, since = {cycle.proposal for cycle in course.lab.ledger.cycles()}, _since(course)
    untaken: list[ProposalRecord] = []
    for proposal in course.lab.ledger.proposals():
        if proposal.promoted_from:
            continue
        if proposal.id in taken:
            untaken = []
        elif proposal.created_at >= since:
            untaken.append(proposal)
    return untaken


def _since(course: _Course) -> str:
    """When the campaign began, a cycle that it took over included; or the campaign before it, where that was
    the same researcher's on the same ladder and nobody else's campaign came between."""
    campaigns = [cycle for cycle in course.lab.ledger.cycles() if cycle.settings.get("kind") == KIND]
    before = [cycle for cycle in campaigns if cycle.settings["campaign"] != course.asked.id][-1:]
    words = course.asked.words
    same = [
        cycle.settings["started"]
        for cycle in _own(course.lab, words["ladder"])
        if cycle in before and cycle.settings["asked"].get("researcher") == words["researcher"]
    ]
    return min([course.asked.started, *(cycle.started_at for cycle in _cycles(course)), *same])


def _context(course: _Course, lab: Laboratory, number: int, place: int) -> Context:
    """What the proposal of candidate `number` knows: all but what its round and the one before it find. A
    rule of its own round is no parent to it, so that no candidate stands or falls with another one there.
    """
    since, cycles, untaken = course.round_of(number, -1).start, _cycles(course), _tries(course)
    begun = {cycle.proposal: cycle.settings["number"] for cycle in cycles if cycle.proposal}
    waiting = {one.id: number - place + k for k, tried in enumerate(untaken) for one in tried}
    pending = {name: at for name, at in (begun | waiting).items() if at >= since}
    context = lab.context(pending, course.asked.words["ladder"])
    own = {name for name, at in pending.items() if at in course.round_of(number)}
    beside = {one.rule for one in context.proposals if one.id in own and not repeats(one)}
    sources = {rule: source for rule, source in context.sources.items() if rule not in beside}
    return replace(context, sources=sources)


def _verification(lab: Laboratory, proposal: ProposalRecord) -> VerificationRecord | None:
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


def _rest_seconds(course: _Course, spent: Spent) -> float:
    """What is left of the hours and of the GPU hours, as wall time; infinite where none were given."""
    words, rest = course.asked.words, [math.inf]
    if words["hours"] is not None:
        begun = datetime.fromisoformat(course.asked.started)
        rest.append(words["hours"] * 3600 - (datetime.fromisoformat(course.clock()) - begun).total_seconds())
    if words["gpu_hours"] is not None:
        left = words["gpu_hours"] * 3600 - spent.gpu_seconds
        rest.append(left if left <= 0 else left / (_gpus(course.lab.resources) or 1))
    return min(rest)


def _needs_the_user(error: Exception) -> bool:
    """Whether a person must act. What only speaks of a candidate (its text, its scores) does not need one."""
    if isinstance(error, OSError):
        return True
    from archer.judge.errors import JudgeError
    from archer.rules.rule import RuleError
    from archer.verify.contained import VerificationFailed
    from archer.verify.language import Refused
    from archer.verify.result import MalformedResult

    of_candidate = (JudgeError, RuleError, VerificationFailed, Refused, MalformedResult)
    return isinstance(error, UserError) and not isinstance(error, of_candidate)


def _fail(lab: Laboratory, cycle: CycleRecord, error: Exception) -> None:
    """Ends a cycle that broke; what it had put into the ledger stays there."""
    message = _named(error)
    kept = lab.ledger.cycles(id=cycle.id)[0]
    lab.put(kept, state="failed", finished_at=now(), message=message)
    lab.watcher.note(f"cycle {cycle.id} broke: {message}")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _standing(course: _Course, step: _Step, spent: Spent, rest: float) -> str:
    """One line for the person who watches: how far, and what was spent."""
    words = course.asked.words
    parts = [str(step.number) if words["cycles"] is None else f"{step.number} of {words['cycles']}"]
    if len(course.ladder) > 1:
        parts.append(step.rung.name)
    if math.isfinite(rest):
        parts.append(f"{rest / 3600:.2f} hours left")
    return ", ".join([*parts, f"{describe_spent(spent, words['gpu_hours'])} so far"])


def describe_spent(spent: Spent, max_gpu_hours: float | None = None) -> str:
    """What was spent, in words: the wall time of training, GPU hours and dollars where there are any."""
    parts = [f"{spent.training_seconds:.0f} s of training"]
    if max_gpu_hours is not None:
        parts.append(f"{spent.gpu_seconds / 3600:.3f} of {max_gpu_hours:g} GPU hours")
    elif spent.gpu_seconds:
        parts.append(f"{spent.gpu_seconds / 3600:.3f} GPU hours")
    return ", ".join([*parts, f"{spent.dollars:.4f} dollars"] if spent.dollars else parts)


def _outcome(course: _Course, result: Result) -> str:
    """What a cycle found, and whether its rule goes up, in a line."""
    name = result.proposal.rule if result.proposal else result.cycle.id
    if not result.verdict:
        return f"{name}: {result.cycle.state}: {result.cycle.message}"
    said = result.verdict.summary if result.verdict.ranks else _unjudged(result.verdict)
    upper = above(course.ladder, _rung(course, result.cycle))
    stopped = held_back(result.verdict, upper) if upper else ""
    climb = (
        f" It goes no further: {stopped}." if stopped else f" It goes up to {upper.name}." if upper else ""
    )
    return f"{name}: {said}{climb}"


def _unjudged(verdict: VerdictRecord) -> str:
    """The mean difference of a preset that ranks nothing, as what it is."""
    mean = verdict.against_reference.mean.difference
    said = "no mean score" if mean is None else f"mean {mean:+.3f} against {verdict.reference}"
    return f"{said}, not judged: {verdict.preset} ranks nothing."


def _proposals(course: _Course) -> list[ProposalRecord]:
    """The campaign's proposals: those of its cycles, those rejected on the way, and those made ahead."""
    own = {cycle.proposal for cycle in _cycles(course)}
    others = {cycle.proposal for cycle in course.lab.ledger.cycles()} - own
    return [
        proposal
        for proposal in course.lab.ledger.proposals()
        if proposal.id in own or (proposal.created_at >= course.asked.started and proposal.id not in others)
    ]


def _summary(course: _Course) -> Discovery:
    """The campaign's records and its note; writing the note ends the campaign."""
    from archer.report import summarise, write
    from archer.report.summary import gather_campaign
    from archer.report.tree import Paragraph, Span

    lab, asked, spent = course.lab, course.asked, _spent(course)
    lab.watcher.phase("report", "the campaign's summary")
    whole = gather_campaign(lab.ledger, lab.known_rules())
    cycles, proposals = tuple(_cycles(course)), tuple(_proposals(course))
    keys = {key for cycle in cycles for key in cycle.run_keys}
    names = {proposal.id for proposal in proposals}
    campaign = replace(
        whole,
        cycles=cycles,
        proposals=proposals,
        verdicts=tuple(verdict for verdict in whole.verdicts if verdict.proposal in names),
        runs=tuple(run for run in whole.runs if run.key in keys),
        spent=replace(spent, gpu_hours_allowed=asked.words["gpu_hours"]),
    )
    note = summarise(campaign)
    note = replace(note, lead=(*note.lead, *(Paragraph((Span(line),)) for line in _left_over(course))))
    return Discovery(asked.id, campaign, write(note, _folder(lab, asked), "summary"), spent)


def _left_over(course: _Course) -> list[str]:
    """What a limit left unfinished, and what becomes of it."""
    cut = [cycle for cycle in _cycles(course) if cycle.state == "running"]
    names = [p.rule for cycle in cut for p in course.lab.ledger.proposals(id=cycle.proposal or "")]
    said = [f"The limit cut off {name}; the next campaign goes on with it." for name in names]
    return said + [
        f"{tried[-1].rule} was proposed and is not tried yet; the next campaign takes it up."
        for tried in _tries(course)
    ]


def _folder(lab: Laboratory, asked: _Asked) -> Path:
    return lab.project.reports / f"campaign-{asked.id}"
