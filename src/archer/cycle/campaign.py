"""A campaign: cycle after cycle in one laboratory, for a number of cycles or hours, unattended.

The ledger says where a campaign stands: each of its cycles bears the campaign's number, what was asked for
and when it began. So the same call continues an interrupted campaign, the unfinished cycle first. A campaign
is over when its summary is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archer.cycle.cycle import Result, advance, describe_history
from archer.cycle.laboratory import Laboratory, open_laboratory
from archer.cycle.plan import get_preset
from archer.cycle.project import DEFAULT, now
from archer.cycle.training import Resources
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.ledger.records import CycleRecord
from archer.mad import Preset

if TYPE_CHECKING:
    from archer.report.summary import Campaign
    from archer.research.researcher import Researcher

KIND = "discover"
FAILURES = 3
"""How many cycles in a row may break on an unexpected error before a campaign stops with that error."""


@dataclass(frozen=True)
class Discovery:
    """What came of a campaign. reports: its summary, as Markdown and as a page."""

    id: str
    campaign: Campaign
    reports: tuple[Path, ...]

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


def discover(
    project: str | Path = DEFAULT,
    *,
    cycles: int | None = None,
    hours: float | None = None,
    preset: str | Preset = "smoke",
    history: str | Path | None = None,
    seed: int = 0,
    share: float = 0.1,
    researcher: Researcher | None = None,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
    clock: Callable[[], str] = now,
) -> Discovery:
    """Research cycles until `cycles` have ended or `hours` have passed since the campaign began.

    share: of all proposals, how many are left to luck (random changes, and the best rule under new seeds).
    A candidate that is rejected, diverges or breaks costs one cycle and stops nothing. Interrupted, the same
    call continues; where it is over, the same call begins the next campaign. A cycle that the hours cut off
    is the first of the next campaign. clock: the time now, ISO 8601.

    Raises UserError for wrong input, before anything is written.
    """
    from archer.cycle.team import Team
    from archer.research.structured import StructuredResearcher

    _check(cycles, hours, share)
    team = Team(researcher or StructuredResearcher(), share)
    words = {"cycles": cycles, "hours": hours, "share": share, "researcher": team.name}
    with open_laboratory(
        project, get_preset(preset), history=history, seed=seed, resources=resources, watcher=watcher
    ) as lab:
        asked = _continued(lab, words, clock)
        lab.watcher.phase("history", describe_history(lab))
        _loop(lab, asked, team, clock)
        return _summary(lab, asked)


def _check(cycles: int | None, hours: float | None, share: float) -> None:
    if cycles is None and hours is None:
        raise UserError("a campaign needs an end: give cycles or hours (--cycles 10 or --hours 8)")
    if cycles is not None and cycles < 1:
        raise UserError(f"cycles is {cycles}: expected 1 or more")
    if hours is not None and not (hours > 0 and math.isfinite(hours)):
        raise UserError(f"hours is {hours}: expected a number above 0")
    if not 0 <= share <= 1:
        raise UserError(f"share is {share}: expected a number from 0 to 1")


def _own(lab: Laboratory, campaign: str | None = None) -> list[CycleRecord]:
    """This preset's, seed's and history's cycles of a campaign, or of all."""
    same = {"kind": KIND, "history": lab.history_digest}
    return [
        cycle
        for cycle in lab.ledger.cycles(preset=lab.preset.name)
        if cycle.seed == lab.seed
        and {key: cycle.settings.get(key) for key in same} == same
        and campaign in (None, cycle.settings["campaign"])
    ]


def _continued(lab: Laboratory, words: dict[str, Any], clock: Callable[[], str]) -> _Asked:
    """The campaign of the same words that is not over, or a new one, which takes an unfinished cycle over."""
    own = _own(lab)
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


def _loop(lab: Laboratory, asked: _Asked, team: Any, clock: Callable[[], str]) -> None:
    resources, broken = lab.resources, 0
    while True:
        ended = [cycle for cycle in _own(lab, asked.id) if cycle.state != "running"]
        rest = _rest_seconds(asked, clock)
        enough = asked.words["cycles"] is not None and len(ended) >= asked.words["cycles"]
        if enough or rest <= 0:
            return
        lab.resources = replace(resources, budget_seconds=_smaller(resources.budget_seconds, rest))
        lab.watcher.phase("cycle", _standing(lab, asked, len(ended), rest))
        cycle = lab.begin(KIND, **asked.settings(len(ended) + 1))
        try:
            result = advance(lab, cycle, team)
        except Exception as error:
            broken += 1
            if _needs_the_user(error) or broken == FAILURES:
                raise
            _fail(lab, cycle, error)
        else:
            broken = 0
            lab.watcher.note(_outcome(result))
            if result.cycle.state == "running":  # the hours ended in its middle
                return


def _rest_seconds(asked: _Asked, clock: Callable[[], str]) -> float:
    """What is left of the hours; infinite where none were given."""
    if asked.words["hours"] is None:
        return math.inf
    passed = datetime.fromisoformat(clock()) - datetime.fromisoformat(asked.started)
    return asked.words["hours"] * 3600 - passed.total_seconds()


def _smaller(budget: float | None, rest: float) -> float | None:
    found = min(math.inf if budget is None else budget, rest)
    return None if math.isinf(found) else found


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
    message = f"{type(error).__name__}: {error}"
    kept = lab.ledger.cycles(id=cycle.id)[0]
    lab.put(kept, state="failed", finished_at=now(), message=message)
    lab.watcher.note(f"cycle {cycle.id} broke: {message}")


def _standing(lab: Laboratory, asked: _Asked, ended: int, rest: float) -> str:
    """One line for the person who watches: how far, and what was spent."""
    cycles, parts = asked.words["cycles"], []
    parts.append(f"{ended + 1} of {cycles}" if cycles is not None else f"{ended + 1}")
    if math.isfinite(rest):
        parts.append(f"{rest / 3600:.2f} hours left")
    spent = sum(cycle.wall_seconds or 0.0 for cycle in _own(lab, asked.id))
    parts.append(f"{spent:.0f} s of training so far")
    dollars = sum(proposal.cost.get("dollars", 0.0) for proposal in _proposals(lab, asked))
    return ", ".join([*parts, f"{dollars:.4f} dollars"] if dollars else parts)


def _outcome(result: Result) -> str:
    """What a cycle found, in one line."""
    name = result.proposal.rule if result.proposal else result.cycle.id
    said = result.verdict.summary if result.verdict else f"{result.cycle.state}: {result.cycle.message}"
    return f"{name}: {said}"


def _proposals(lab: Laboratory, asked: _Asked) -> list[Any]:
    """The campaign's proposals: those of its cycles, and those that were rejected on the way."""
    own = {cycle.proposal for cycle in _own(lab, asked.id)}
    others = {cycle.proposal for cycle in lab.ledger.cycles()} - own
    return [
        proposal
        for proposal in lab.ledger.proposals()
        if proposal.id in own or (proposal.created_at >= asked.started and proposal.id not in others)
    ]


def _summary(lab: Laboratory, asked: _Asked) -> Discovery:
    """The campaign's records and its note; writing the note ends the campaign."""
    from archer.report import summarise, write
    from archer.report.summary import gather_campaign

    lab.watcher.phase("report", "the campaign's summary")
    whole = gather_campaign(lab.ledger, lab.known_rules())
    cycles, proposals = tuple(_own(lab, asked.id)), tuple(_proposals(lab, asked))
    keys = {key for cycle in cycles for key in cycle.run_keys}
    names = {proposal.id for proposal in proposals}
    campaign = replace(
        whole,
        cycles=cycles,
        proposals=proposals,
        verdicts=tuple(verdict for verdict in whole.verdicts if verdict.proposal in names),
        runs=tuple(run for run in whole.runs if run.key in keys),
    )
    return Discovery(asked.id, campaign, write(summarise(campaign), _folder(lab, asked), "summary"))


def _folder(lab: Laboratory, asked: _Asked) -> Path:
    return lab.project.reports / f"campaign-{asked.id}"
