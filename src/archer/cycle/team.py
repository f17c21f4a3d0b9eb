"""Who proposes in a campaign: a researcher beside its control arms, several models in turns, and all of them
in the background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread

from archer.cycle.laboratory import Laboratory, repeats
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
from archer.research.structured import StructuredResearcher


@dataclass
class Team:
    """A researcher who leaves a stated share of all proposals to luck: random changes, and the best rule
    again under new seeds. Whose turn it is follows from the context alone.

    A researcher whose predictions are worth less than "no change" loses turns to the structured search, and
    that one to random changes: at a worth of w, a share 1 - w of them (see `archer.judge.standings`).
    at_once: how many candidates are trained together.
    """

    researcher: Researcher
    share: float = SHARE
    at_once: int = 1
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.researcher.name

    def propose(self, context: Context) -> ProposalRecord:
        """The proposal of whoever's turn it is, under a name that is free."""
        context = replace(context, at_once=self.at_once)
        turn = arm(context, self.share)
        proposer = CONTROLS[turn]() if turn != "researcher" else self._in_turn(context)
        return with_free_name(proposer.propose(context), context)

    def _in_turn(self, context: Context) -> Researcher:
        if not loses_turn(context, self.name):
            return self.researcher
        return CONTROLS["random"]() if self.name == StructuredResearcher.name else StructuredResearcher()

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """The researcher learns from its own proposals; those of luck stand in the next context."""
        if not proposal.control:
            self.researcher.learn(verdict, proposal)


def loses_turn(context: Context, name: str) -> bool:
    """Whether a researcher's record costs it this turn: never, while it predicts as well as "no change". A
    preset that ranks no rules ranks no researchers either."""
    if not context.ranked_record:
        return False
    import numpy as np

    from archer.judge import standings

    draw = np.random.default_rng([context.seed, len(context.proposals), 11]).random()
    return bool(draw > standings(context.ranked_record, [name])[0].worth)


def with_free_name(record: ProposalRecord, context: Context) -> ProposalRecord:
    """The proposal under a name that no other has, known or rejected: a name stands for one text. A
    known rule once more keeps its own."""
    if repeats(record):
        return record
    taken = {*context.sources, *(proposal.rule for proposal in context.proposals)}
    names = (record.rule, *(f"{record.rule}_{number}" for number in range(2, len(taken) + 3)))
    return replace(record, rule=next(name for name in names if name not in taken))


@dataclass
class Models:
    """Several models that share a campaign: each turn goes to the one worth most for its cost, unless its
    record costs it the turn; then to the best of the others."""

    members: Sequence[ModelResearcher]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = " + ".join(member.name for member in self.members)

    def propose(self, context: Context) -> ProposalRecord:
        """The chosen model's proposal."""
        names = [member.name for member in self.members]
        chosen = choose_model(context, names)
        others = [name for name in names if name != chosen]
        if others and loses_turn(context, chosen):
            chosen = choose_model(context, others)
        return next(member for member in self.members if member.name == chosen).propose(context)

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """Whoever proposed takes note."""
        for member in self.members:
            if member.name == proposal.researcher:
                member.learn(verdict, proposal)


@dataclass
class Ahead:
    """Work on candidates that goes on in the background, one after the other by number. An error ends it, and
    waits for `check`."""

    work: Callable[[int], object]
    numbers: Sequence[int]
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for number in self.numbers:
                self._number = number
                self.work(number)
        except BaseException as error:  # noqa: BLE001  raised again by `check`: this thread has nobody to tell
            self.error = error

    def wait(self) -> None:
        """Until the work is over, whatever came of it."""
        self._thread.join()

    def check(self, number: int) -> None:
        """Waits, and raises the error of the work on this candidate, or on one before it, once."""
        self.wait()
        if self.error is not None and number >= self._number:
            error, self.error = self.error, None
            raise error


def verifier(project: Path, preset: Preset) -> Callable[[str, str], str | None]:
    """What tells a model about its rule file before it is a proposal: (source, name) to the verifier's
    sentence, None where the rule passes. Nothing is written; the checks run in a contained process. What it
    returns raises WallFailed where a wall of this machine fails."""
    from archer.verify.contain import WallFailed

    def verify(source: str, name: str) -> str | None:
        with Ledger.in_folder(project) as ledger:
            lab = Laboratory(Project(project), ledger, preset, (), Resources(), Watcher())
            try:
                found = lab.check(source, name)
            except WallFailed:  # this machine's failure, of which the model can know nothing
                raise
            except UserError as error:
                return str(error)
        return "; ".join(f"{c.name}: {c.message}" for c in found.checks if not c.passed) or None

    return verify
