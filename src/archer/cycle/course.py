"""Where a campaign stands, as the ledger tells it: what comes next, and what was spent.

Each cycle of a campaign bears its number, what was asked for and when it began. Nothing else is kept, so that
the same call finds an interrupted campaign as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archer.cycle.laboratory import Laboratory
from archer.cycle.ladder import Rung, above, held_back
from archer.cycle.project import now
from archer.cycle.training import Resources
from archer.errors import UserError
from archer.ledger.records import CycleRecord, ProposalRecord
from archer.report.summary import Spent

if TYPE_CHECKING:
    from archer.cycle.team import Ahead, Team

KIND = "discover"


@dataclass(frozen=True)
class Asked:
    """What makes two calls the same, and where the campaign of that call stands."""

    words: dict[str, Any]
    id: str
    started: str

    def settings(self, number: int) -> dict[str, Any]:
        return {"campaign": self.id, "started": self.started, "asked": self.words, "number": number}


@dataclass(frozen=True)
class Step:
    """What a campaign does next: candidate `number` on a rung, or its cycle that was interrupted there.

    proposal: None for a candidate that is not proposed yet.
    """

    number: int
    rung: Rung
    cycle: CycleRecord | None = None
    proposal: ProposalRecord | None = None


@dataclass
class Course:
    """A campaign on its way. at_once: candidates in a round. ahead: what goes on in the background. over:
    nothing more is to be kept."""

    lab: Laboratory
    ladder: tuple[Rung, ...]
    asked: Asked
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


def own_cycles(lab: Laboratory, ladder: list[str], campaign: str | None = None) -> list[CycleRecord]:
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


def cycles_of(course: Course) -> list[CycleRecord]:
    """This campaign's cycles."""
    return own_cycles(course.lab, course.asked.words["ladder"], course.asked.id)


def continued(lab: Laboratory, words: dict[str, Any], clock: Callable[[], str]) -> Asked:
    """The campaign of the same words that is not over, or a new one, which takes an unfinished cycle over."""
    own = own_cycles(lab, words["ladder"])
    if own:
        last = own[-1].settings
        asked = Asked(last["asked"], last["campaign"], last["started"])
        if asked.words == words and not (folder_of(lab, asked) / "summary.md").exists():
            lab.watcher.note(f"continuing campaign {asked.id}, begun {asked.started}")
            return asked
    taken = {c.settings["campaign"] for c in lab.ledger.cycles() if c.settings.get("kind") == KIND}
    asked = Asked(words, f"{len(taken) + 1:04d}", clock())
    for cycle in own:
        if cycle.state == "running":
            lab.put(cycle, settings=cycle.settings | asked.settings(1))
    return asked


def next_step(course: Course) -> Step:
    """What comes after the last cycle: its rest, the next rung for its rule, or the next candidate."""
    own = cycles_of(course)
    if not own:
        return Step(1, course.ladder[0])
    last, number = own[-1], own[-1].settings["number"]
    if last.state == "running":
        kept = course.lab.ledger.proposals(id=last.proposal or "")
        rung = rung_of(course, last)
        return Step(number, rung, last, kept[0] if kept else _rising(course, own[:-1]))
    rising, upper = _rising(course, own), above(course.ladder, rung_of(course, last))
    return Step(number, upper, None, rising) if rising and upper else Step(number + 1, course.ladder[0])


def rung_of(course: Course, cycle: CycleRecord) -> Rung:
    """Where a cycle stands on the ladder."""
    seeds = cycle.settings.get("until_decided")
    places = ((rung.preset.name, rung.judging.until_decided) for rung in course.ladder)
    return course.ladder[list(places).index((cycle.preset, seeds))]


def _rising(course: Course, ended: Sequence[CycleRecord]) -> ProposalRecord | None:
    """The rule of the last of these cycles as it comes to the next rung, where it goes up."""
    upper = above(course.ladder, rung_of(course, ended[-1])) if ended else None
    if upper is None or ended[-1].proposal is None:
        return None
    (proposal,) = course.lab.ledger.proposals(id=ended[-1].proposal)
    verdicts = course.lab.ledger.verdicts(proposal=proposal.id)
    goes_up = verdicts and not held_back(proposal, verdicts[-1], upper)
    return _promoted(proposal, rung_of(course, ended[-1]), upper) if goes_up else None


def _promoted(proposal: ProposalRecord, lower: Rung, upper: Rung) -> ProposalRecord:
    """The rule once more, on a dearer rung; its predictions were for the cheapest one alone."""
    first = proposal.promoted_from or proposal.id
    reason = proposal.reason.partition(". ")[2] if proposal.promoted_from else proposal.reason
    return replace(
        proposal, id=f"{first}-{upper.name}", promoted_from=first, predictions=(), cost={},
        reason=f"Promoted from {lower.name}. {reason}", created_at=now(),
    )  # fmt: skip


def spent_by(course: Course) -> Spent:
    """What the ledger says that the campaign has used."""
    lab, own = course.lab, cycles_of(course)
    return Spent(
        sum(cycle.wall_seconds or 0.0 for cycle in own),
        _gpu_seconds(lab, own, course.asked.started),
        sum(proposal.cost.get("dollars", 0.0) for proposal in proposals_of(course)),
        course.asked.words["gpu_hours"],
    )


def _gpu_seconds(lab: Laboratory, own: Sequence[CycleRecord], since: str) -> float:
    """Of the runs that ended on a GPU since the campaign began, those of other cycles alone left out.

    A run's wall time is its share of its process's, so that the sum is that of the processes; of those,
    several share a GPU. Runs of an interrupted cycle count too, although no cycle names them yet.
    """
    from archer.fleet.devices import available_devices, processes_per_device

    named, names = {key for cycle in own for key in cycle.run_keys}, {cycle.id for cycle in own}
    others = {key for c in lab.ledger.cycles() if c.id not in names for key in c.run_keys} - named
    seconds = sum(
        run.wall_seconds
        for run in lab.ledger.runs()
        if run.finished_at >= since
        and run.key not in others
        and run.key == run.trained_as
        and run.device not in ("", "cpu")
    )
    return seconds / processes_per_device(available_devices(lab.resources.device)) if seconds else 0.0


def gpus(resources: Resources) -> int:
    """How many GPUs train."""
    from archer.fleet.devices import available_devices

    return sum(device.startswith("cuda") for device in available_devices(resources.device))


def rest_seconds(course: Course, spent: Spent) -> float:
    """What is left of the hours and of the GPU hours, as wall time; infinite where none were given."""
    words, rest = course.asked.words, [math.inf]
    if words["hours"] is not None:
        begun = datetime.fromisoformat(course.asked.started)
        rest.append(words["hours"] * 3600 - (datetime.fromisoformat(course.clock()) - begun).total_seconds())
    if words["gpu_hours"] is not None:
        left = words["gpu_hours"] * 3600 - spent.gpu_seconds
        rest.append(left if left <= 0 else left / (gpus(course.lab.resources) or 1))
    return min(rest)


def folder_of(lab: Laboratory, asked: Asked) -> Path:
    """Where a campaign's summary lies; a campaign that has one is over."""
    return lab.project.reports / f"campaign-{asked.id}"


def proposals_of(course: Course) -> list[ProposalRecord]:
    """The campaign's proposals: those of its cycles, those rejected on the way, and those made ahead."""
    own = {cycle.proposal for cycle in cycles_of(course)}
    others = {cycle.proposal for cycle in course.lab.ledger.cycles()} - own
    return [
        proposal
        for proposal in course.lab.ledger.proposals()
        if proposal.id in own or (proposal.created_at >= course.asked.started and proposal.id not in others)
    ]


def needs_the_user(error: Exception) -> bool:
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


def in_words(error: Exception) -> str:
    """An error, with its kind."""
    return f"{type(error).__name__}: {error}"
