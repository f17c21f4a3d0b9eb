"""Campaigns without the cost of training and verification: what their tests share."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.cycle.tiny import TINY, tiny

from archer.cycle import discover
from archer.cycle.training import Resources, TimeIsUp, run_record
from archer.cycle.watch import Watcher
from archer.fleet.run import Outcome
from archer.ledger import Ledger
from archer.ledger.records import TASKS, Prediction, ProposalRecord
from archer.research.exchange import Reply
from archer.rules import load_rule
from archer.verify.result import CheckResult, Verification

LOW, HIGH = (replace(tiny(epochs=epochs, ranks=True), name=f"rank-{epochs}") for epochs in (1, 2))
CPU = Resources(device="cpu")


def source_of(share: float) -> str:
    return f'"""Keeps {share}."""\n\nparent = "delta_net"\n\n\ndef retain(S):\n    return {share} * S\n'


def known_in(context):
    """What a researcher could learn from: proposals, verdicts, rejections, and rules with their scores."""
    measured = sorted({(m.source, m.rule) for m in context.measured if m.score is not None})
    return (
        [p.id for p in context.proposals], sorted((v.proposal, v.preset) for v in context.verdicts),
        [r.proposal for r in context.rejections], measured,
    )  # fmt: skip


class Numbered:
    """Proposes keep_1, keep_2, ... in turn; `wrong` maps a number to what is raised instead."""

    name = "numbered"

    def __init__(self, wrong: dict[int, BaseException] | None = None) -> None:
        self.wrong, self.learned = wrong or {}, []

    def propose(self, context):
        number = 1 + sum(p.researcher == self.name for p in context.proposals)
        if number in self.wrong:
            raise self.wrong.pop(number)
        return ProposalRecord(
            f"n{number}", f"keep_{number}", "delta_net", ("retain",), source_of(1 - number / 50),
            f"known: {known_in(context)}",
            tuple(Prediction(task, 0.3, 0.1, 0.6) for task in TASKS), self.name, context.now,
        )  # fmt: skip

    def learn(self, verdict, proposal):
        self.learned.append(proposal.id)


class Bench:
    """Training and verification without their cost: scores follow from rule and seed alone."""

    def __init__(self) -> None:
        self.trained, self.rejected, self.broken, self.stop_after = [], set(), {}, None
        self.level, self.device, self.wall_seconds, self.before = {}, "cpu", 0.1, lambda name: None
        self.reach = None

    def train(self, ledger, project, runs, preset, resources, watcher, *others):
        made = []
        try:
            self.make(made, ledger, runs, preset, resources)
        finally:
            ledger.add_runs(made)
        if self.stop_after is not None and len(self.trained) >= self.stop_after:
            raise TimeIsUp(ledger.runs(keys=[r.key for r in runs]), len(runs))
        return ledger.runs(keys=[run.key for run in runs])

    def make(self, made, ledger, runs, preset, resources):
        self.resources = resources
        for one in {one.key: one for one in runs}.values():
            if ledger.has_run(one.key):
                continue
            if one.subject.name in self.broken:
                raise self.broken[one.subject.name]
            if self.stop_after is not None and len(self.trained) >= self.stop_after:
                return
            self.before(one.subject.name)
            score = 0.3 + (sum(map(ord, one.subject.name)) * 7 + one.seed) % 60 / 100
            score = self.level.get(one.subject.name, score)
            outcome = Outcome(
                one.key, "finished", score, score, score, 1, (), 100, self.wall_seconds, self.device
            )
            made.append(run_record(one, outcome, preset))
            self.trained.append((one.subject.name, one.seed, one.setting.name))

    def check(self, lab, source, name, trust=False, allow_many=False):
        passed = name not in self.rejected
        found = load_rule(source, name, lab.find)
        checks = (CheckResult("causality", passed, "" if passed else "it looks ahead", 0.0),)
        return Verification(name, passed, checks, found.hash, found.parent or "", reach=self.reach)


def campaign(folder, researcher=None, **changes):
    asked = {"cycles": 3, "share": 0.0, "preset": TINY, "resources": CPU}
    return discover(folder, researcher=researcher or Numbered(), **{**asked, **changes})


def states(found):
    return [cycle.state for cycle in found.cycles]


def tried(found):
    return [p.rule for cycle in found.cycles if (p := found.campaign.proposal(cycle))]


def next_year():
    return "2027-01-01T00:00:00+00:00"


def places(found):
    """Which rule was tried under which preset, in order, and what became of it."""
    return [
        (cycle.preset, proposal.rule, cycle.state)
        for cycle in found.cycles
        if (proposal := found.campaign.proposal(cycle))
    ]


def records_of(folder):
    """A ledger's campaign without its clock: what two ways to the same end must agree in."""
    with Ledger.in_folder(folder, read_only=True) as ledger:
        proposals = sorted((p.id, p.rule, p.promoted_from, p.reason) for p in ledger.proposals())
        cycles = [(c.id, c.preset, c.state, c.proposal, c.run_keys) for c in ledger.cycles()]
        verdicts = [(v.proposal, v.preset, v.summary) for v in ledger.verdicts()]
        return proposals, cycles, verdicts, {run.key for run in ledger.runs()}


class Writes:
    """Counts what campaigns write into their ledgers, and interrupts one of the writes: before it where its
    number is odd, after it where it is even."""

    def __init__(self, monkeypatch):
        self.count, self.fatal = 0, None
        for name in ("put_cycle", "add_proposal", "add_verification", "add_verdict"):
            monkeypatch.setattr(Ledger, name, self.counted(getattr(Ledger, name)))

    def interrupt(self, number):
        self.count, self.fatal = 0, number

    def counted(self, write):
        def wrapped(ledger, record):
            self.count += 1
            fatal = self.count == self.fatal
            if fatal and self.count % 2:
                raise KeyboardInterrupt
            kept = write(ledger, record)
            if fatal:
                raise KeyboardInterrupt
            return kept

        return wrapped


class Listener(Watcher):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


class Canned:
    """A model that answers at once: a rule that keeps a little less each time."""

    def __init__(self) -> None:
        self.count = 0

    def ask(self, messages):
        self.count += 1
        made = {
            "parent": "delta_net", "slot": "retain", "name": f"canned_{self.count}", "title": "Keeps less",
            "code": f"def retain(S):\n    return {1 - self.count / 10} * S\n", "insights": "", "issue": "",
            "reasoning": "r", "lessons": "", "per_task": {}, "cites": [], "equation": "",
            "predictions": {task: [0.5, 0.4, 0.6] for task in TASKS},
        }  # fmt: skip
        return Reply(json.dumps(made), "canned", 100, 20, 0.25)
