"""What a researcher is told and what it must answer.

A researcher sees a `Context`: only what the ledger and the history hold, as plain values. Everything that
decides its answer is in there, the seed and the time included, so that a researcher started anew on the same
ledger proposes the same next thing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from archer.errors import UserError
from archer.ledger.records import ProposalRecord, VerdictRecord

if TYPE_CHECKING:
    from archer.judge.predictions import TrackRow


class ResearchError(UserError):
    """A researcher cannot answer; the message says why and what to do."""


class NothingLeftError(ResearchError):
    """Everything that this researcher can think of was tried."""


@dataclass(frozen=True)
class Measurement:
    """One rule's score on one task, from one source.

    source: a preset, or the name of a history table. score: a fraction, or None where nothing was measured.
    low, high: the 95% interval, where there is one. seeds: how many seeds it is the mean of.
    """

    rule: str
    task: str
    source: str
    score: float | None
    low: float | None = None
    high: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Setting:
    """What a researcher may know of a setting: its task, name and sequence length in tokens."""

    task: str
    name: str
    length: int


@dataclass(frozen=True)
class Rejection:
    """A proposal that was not trained, or not to the end, and the sentence that says why."""

    proposal: str
    message: str


@dataclass(frozen=True)
class Context:
    """All that a researcher may know. Nothing else may decide its answer.

    history: the built-in tables and the user's, by table name. measured: what Archer's own runs say, by
    preset. sources: the text of every rule that can be a parent, by name (built-in and discovered).
    hashes: hashes of all rules known, beyond those in `sources`. proposals, verdicts, rejections: the past,
    in order; rejections hold crashes and divergence too. reach: for a rule, the names of the settings in
    which it differs from its parent. settings: those of the preset; none means mad-lab's own.
    track_record: what `archer.judge.predictions.track_record` made of the past; ranked_record: what it made
    of the verdicts that rank. at_once: how many candidates are trained together, and so proposed without each
    other's verdicts. now: ISO 8601, UTC.
    """

    sources: Mapping[str, str]
    history: tuple[Measurement, ...] = ()
    measured: tuple[Measurement, ...] = ()
    proposals: tuple[ProposalRecord, ...] = ()
    verdicts: tuple[VerdictRecord, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    hashes: frozenset[str] = frozenset()
    settings: tuple[Setting, ...] = ()
    reach: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    track_record: tuple[TrackRow, ...] = ()
    ranked_record: tuple[TrackRow, ...] = ()
    base: str = "delta_net"
    reference: str = "gated_delta_net"
    preset: str = "smoke"
    chunk_size: int = 32
    seed: int = 0
    budget_seconds: float | None = None
    at_once: int = 1
    now: str = ""

    def score(self, rule: str, task: str) -> Measurement | None:
        """The measurement to compare with: this preset's, or else the first history table that has one."""
        own = [m for m in self.measured if m.source == self.preset]
        for measurement in (*own, *self.history):
            if measurement.rule == rule and measurement.task == task and measurement.score is not None:
                return measurement
        return None


@runtime_checkable
class Researcher(Protocol):
    """Whoever proposes. `name` stands in every proposal; state must be derivable from the ledger."""

    name: str

    def propose(self, context: Context) -> ProposalRecord:
        """The next change, with its reason and predictions. Raises NothingLeftError when there is none."""
        ...

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """Take note of a verdict that the next context will hold as well."""
        ...


def proposal_id(researcher: str, source: str, context: Context) -> str:
    """A name for a proposal: the same researcher, rule file and number of earlier proposals give the same."""
    text = "\0".join((researcher, source, str(context.seed), str(len(context.proposals))))
    return "p" + hashlib.sha256(text.encode()).hexdigest()[:11]


def with_verdict(context: Context, verdict: VerdictRecord, proposal: ProposalRecord) -> Context:
    """The context with one more verdict, unless it holds it already."""
    known = {v.proposal for v in context.verdicts}
    proposals = context.proposals
    if proposal.id not in {p.id for p in proposals}:
        proposals = (*proposals, proposal)
    verdicts = context.verdicts if verdict.proposal in known else (*context.verdicts, verdict)
    return replace(context, proposals=proposals, verdicts=verdicts)
