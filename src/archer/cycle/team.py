"""Who proposes in a campaign: a researcher beside its control arms, and several models in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from archer.cycle.laboratory import Laboratory
from archer.cycle.project import Project
from archer.cycle.training import Resources
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.ledger import Ledger
from archer.ledger.records import ProposalRecord, VerdictRecord
from archer.mad import Preset
from archer.research.control import CONTROLS, SHARE, arm
from archer.research.model import ModelResearcher, choose_model
from archer.research.researcher import Context, Researcher


@dataclass
class Team:
    """A researcher who leaves a stated share of all proposals to luck: random changes, and the best rule
    again under new seeds. Whose turn it is follows from the seed and the number of proposals alone."""

    researcher: Researcher
    share: float = SHARE
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.researcher.name

    def propose(self, context: Context) -> ProposalRecord:
        """The proposal of whoever's turn it is."""
        turn = arm(context, self.share)
        return (self.researcher if turn == "researcher" else CONTROLS[turn]()).propose(context)

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """The researcher learns from its own proposals; those of luck stand in the next context."""
        if not proposal.control:
            self.researcher.learn(verdict, proposal)


@dataclass
class Models:
    """Several models that share a campaign: each turn goes to the one worth most for its cost."""

    members: Sequence[ModelResearcher]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = " + ".join(member.name for member in self.members)

    def propose(self, context: Context) -> ProposalRecord:
        """The chosen model's proposal."""
        chosen = choose_model(context, [member.name for member in self.members])
        return next(member for member in self.members if member.name == chosen).propose(context)

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """Whoever proposed takes note."""
        for member in self.members:
            if member.name == proposal.researcher:
                member.learn(verdict, proposal)


def verifier(project: Path, preset: Preset) -> Callable[[str, str], str | None]:
    """What tells a model about its rule file before it is a proposal: (source, name) to the verifier's
    sentence, None where the rule passes. Nothing is written; the checks run in a contained process."""

    def verify(source: str, name: str) -> str | None:
        with Ledger.in_folder(project) as ledger:
            lab = Laboratory(Project(project), ledger, preset, (), Resources(), Watcher())
            try:
                found = lab.check(source, name)
            except UserError as error:
                return str(error)
        return "; ".join(f"{c.name}: {c.message}" for c in found.checks if not c.passed) or None

    return verify
