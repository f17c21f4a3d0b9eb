"""One research cycle: propose, verify, train, judge, record, report.

    history and ledger → researcher → proposal → verify → fleet → runs → judge → verdict → ledger and report

Everything that happens is in the ledger before the next thing begins, so that the same call continues where
an interrupted one stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archer.cycle.laboratory import Laboratory, accepted_in, company, open_laboratory, repeats
from archer.cycle.measuring import Company, Judging, confirm_win, gather, settle
from archer.cycle.plan import check_schedule, get_preset, named_subject, read_rule_file, recipe_of
from archer.cycle.project import DEFAULT, now
from archer.cycle.training import Resources, TimeIsUp
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.figures import signed
from archer.fleet.devices import available_devices
from archer.fleet.run import Run, Subject
from archer.ledger.records import (
    TASKS,
    Comparison,
    ConfirmationRecord,
    CycleRecord,
    ProposalRecord,
    RunRecord,
    VerdictRecord,
    VerificationRecord,
)
from archer.mad import Preset
from archer.rules import BASE, REFERENCE, rule_names

if TYPE_CHECKING:
    import pandas as pd

    from archer.cycle.reach import Reach
    from archer.research.researcher import Researcher

ATTEMPTS = 5
"""How many proposals in a row may be rejected before a cycle gives up."""

LIFTED = "the language wall was lifted: only the process wall stands between this code and the machine"
"""Said wherever a file is trained with --trust."""


@dataclass(frozen=True)
class Result:
    """What came of a cycle or a bench.

    confirmations: of what was won, with fresh seeds. `frame()` gives the scores and `runs_frame()` the runs,
    as pandas frames.
    """

    cycle: CycleRecord
    runs: tuple[RunRecord, ...]
    reports: tuple[Path, ...]
    facts: Any
    proposal: ProposalRecord | None = None
    verification: VerificationRecord | None = None
    verdict: VerdictRecord | None = None
    comparisons: tuple[Comparison, ...] = ()
    confirmations: tuple[ConfirmationRecord, ...] = ()

    def frame(self) -> pd.DataFrame:
        """Rules by tasks: held-out scores, NaN where there is no score."""
        import pandas as pd

        from archer.ledger.summary import score_table

        rows = score_table(self.runs, self.cycle.preset)
        return pd.DataFrame({row.rule: {**row.scores, "Mean": row.mean} for row in rows}, dtype=float).T

    def runs_frame(self) -> pd.DataFrame:
        """One row per run, without curves."""
        import pandas as pd

        drop = ("curve", "passed", "effective", "packages")
        return pd.DataFrame([{k: v for k, v in asdict(run).items() if k not in drop} for run in self.runs])


def run(
    project: str | Path = DEFAULT,
    *,
    preset: str | Preset = "smoke",
    history: str | Path | None = None,
    seed: int = 0,
    researcher: Researcher | None = None,
    judging: Judging | None = None,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """One cycle with a researcher (the structured search, unless another is given).

    judging: whether seeds are added until decided, and whether winners are trained again (see `Judging`).

    The result's cycle is "finished", "rejected" (no proposal passed verification) or "failed" (nothing
    could be scored), or still "running" where the budget of time was used up: the same call continues.
    Raises UserError for wrong input, before anything is written.
    """
    from archer.research.structured import StructuredResearcher

    researcher, preset = researcher or StructuredResearcher(), get_preset(preset)
    with open_laboratory(
        project, preset, history=history, seed=seed, resources=resources, watcher=watcher, judging=judging
    ) as lab:
        cycle = lab.begin("run", researcher=researcher.name)
        lab.stand_by()
        lab.watcher.phase("history", describe_history(lab))
        return advance(lab, cycle, researcher)


def advance(lab: Laboratory, cycle: CycleRecord, researcher: Researcher) -> Result:
    """Takes a cycle, new or interrupted, to its end. What the ledger holds of it is not done again."""
    from archer.cycle.team import with_free_name

    proposal, verification = _proposed(lab, cycle)
    attempts = 0
    while verification is None or not verification.passed:
        if attempts == ATTEMPTS:
            return _close(lab, cycle, "rejected", proposal, verification)
        attempts += 1
        if proposal is None or verification is not None:
            lab.watcher.phase("propose", researcher.name)
            context = lab.context()
            proposal = with_free_name(researcher.propose(context), context)
            say_fallback(lab, proposal)
            cycle = lab.put(cycle, proposal=proposal.id)
            lab.ledger.add_proposal(proposal)
        verification = _verify(lab, proposal)
    assert proposal is not None
    result = _train_and_judge(lab, cycle, proposal, verification)
    if result.verdict:
        researcher.learn(result.verdict, proposal)
    return result


def try_rule(
    file: str | Path,
    project: str | Path = DEFAULT,
    *,
    preset: str | Preset = "smoke",
    seed: int = 0,
    trust: bool = False,
    allow_many: bool = False,
    judging: Judging | None = None,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """The same cycle with a rule that a person wrote; its parent is a built-in rule or one that the project
    has accepted. trust: lift the language wall for this file."""
    rule, preset = read_rule_file(Path(file), trust, accepted_in(project)), get_preset(preset)
    with open_laboratory(
        project, preset, seed=seed, resources=resources, watcher=watcher, judging=judging
    ) as lab:
        cycle = lab.begin("try", rule=rule.name, hash=rule.hash)
        lab.watcher.phase("propose", f"{rule.name}, from {Path(file).name}")
        if trust:
            lab.watcher.note(LIFTED)
        proposal = ProposalRecord(
            id=f"person-{rule.hash}-{cycle.id}", rule=rule.name, parent=rule.parent or "", slots=rule.own,
            source=rule.source, reason=rule.title, predictions=(), researcher="person", created_at=now(),
        )  # fmt: skip
        return carry_out(lab, cycle, proposal, trust, allow_many)


def submit(
    record: ProposalRecord,
    project: str | Path = DEFAULT,
    preset: str | Preset = "smoke",
    resources: Resources | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """One cycle with a given proposal. Interrupted, the same proposal continues where it stopped."""
    with open_laboratory(project, get_preset(preset), resources=resources, watcher=watcher) as lab:
        known = lab.ledger.proposals(id=record.id)
        return carry_out(lab, lab.begin("agent", proposal=record.id), known[0] if known else record)


def carry_out(
    lab: Laboratory,
    cycle: CycleRecord,
    proposal: ProposalRecord,
    trust: bool = False,
    allow_many: bool = False,
) -> Result:
    """Takes a cycle whose proposal is given from verification to its end."""
    lab.ledger.add_proposal(proposal)
    cycle = lab.put(cycle, proposal=proposal.id)
    lab.stand_by()
    verification = _verify(lab, proposal, trust, allow_many)
    if not verification.passed:
        return _close(lab, cycle, "rejected", proposal, verification)
    return _train_and_judge(lab, cycle, proposal, verification)


def bench(
    rules: Sequence[str],
    project: str | Path = DEFAULT,
    *,
    preset: str | Preset = "smoke",
    reference: str = REFERENCE,
    arguments: dict[str, Any] | None = None,
    schedule: str = "constant",
    trust: bool = False,
    judging: Judging | None = None,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """Trains and compares named rules (built in, or accepted in the project), rule files and modules
    ("file.py:ClassName"); each against the reference, which is trained too.

    schedule: "constant", or "cosine"; its runs stand under a preset name of their own, such as smoke-cosine.
    judging: as in `run`.
    """
    from archer.judge import Pair
    from archer.judge.verdicts import confirmed

    if isinstance(rules, str):
        raise UserError(f"bench: expected a list of rules, got the text {rules!r}; write [{rules!r}]")
    preset, schedule = get_preset(preset), check_schedule(schedule)
    if schedule != "constant":
        preset = replace(preset, name=f"{preset.name}-{schedule}")
    known = accepted_in(project)
    asked = {name: named_subject(name, arguments, trust, known) for name in (*rules, reference)}
    subjects, reference = [*asked.values()], asked[reference].name
    if available_devices(resources.device if resources else None) == ("cpu",):
        _check_modules(asked, preset.width)
    names = tuple(subject.name for subject in subjects)
    with open_laboratory(project, preset, resources=resources, watcher=watcher, judging=judging) as lab:
        _refuse_twins(subjects, lab.ledger.runs())
        cycle = lab.begin("bench", rules=[subject.hash for subject in subjects], reference=reference)
        lab.watcher.phase("train", ", ".join(names))
        if trust:
            lab.watcher.note(LIFTED)
        for place in _unverified(lab, asked):
            lab.watcher.note(
                f"{place} is trained unverified: `archer verify {place}` says whether it sees the future"
            )
        together, reach = gather(lab, subjects, recipe_of(preset, schedule))
        pairs = [Pair(name, reference, reach.same(name, reference)) for name in names if name != reference]
        try:
            records, comparisons = settle(together, pairs, range(lab.seed_count), cycle)
            cycle = lab.put(cycle, rules=names, run_keys=_keys(records))
            wins = [
                confirm_win(together, cycle, pair, won, records)
                for pair, won in zip(pairs, comparisons, strict=True)
            ]
        except TimeIsUp as pause:
            return _paused(lab, cycle, pause)
        lab.watcher.phase("judge")
        found, won = tuple(map(confirmed, comparisons, wins)), tuple(win for win in wins if win)
        return _close(lab, cycle, _state(records), runs=tuple(records), comparisons=found, confirmations=won)


def _refuse_twins(subjects: Iterable[Subject], runs: Iterable[RunRecord]) -> None:
    """Raises UserError for one text under two names: a run is known by what it trains, and stands in tables
    under the name that trained it first."""
    named = {run.rule_hash: run.rule for run in runs}
    for subject in subjects:
        first = named.setdefault(subject.hash, subject.name)
        if first != subject.name:
            raise UserError(
                f"'{subject.name}' is '{first}' by another name, and runs stand under that one: leave one "
                "out, name it as it was, or take another project (--project)"
            )


def _unverified(lab: Laboratory, asked: Mapping[str, Subject]) -> list[str]:
    """A person's files among what is benched, but for rules that passed verification in this project."""
    passed = {v.rule_hash for v in lab.ledger.verifications() if v.passed}
    return [name for name, subject in asked.items() if ".py" in name and subject.hash not in passed]


def _check_modules(asked: Mapping[str, Subject], width: int) -> None:
    """Raises UserError where a person's module cannot be built, before anything is written or trained.

    Not for modules that train on a GPU: they may want one for this too, which a contained check has not.
    """
    from archer.verify.contained import build_contained

    for name, subject in asked.items():
        if subject.module and ":" in name:
            class_name = subject.module.rpartition(":")[2]
            try:
                build_contained(subject.source, class_name, dict(subject.arguments), width)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error


def describe_history(lab: Laboratory) -> str:
    """One line for the person who watches: where the reference is ahead."""
    analysis = lab.analysis()
    ahead = {one.task: one.gap for one in analysis.standings}
    listed = ", ".join(f"{task} {signed(ahead[task], '')}" for task in analysis.tasks_behind)
    rows = sum(len(table.rows) for table in lab.history)
    return f"{rows} rows in {len(lab.history)} tables; {REFERENCE} is ahead of {BASE} on {listed}"


def say_fallback(lab: Laboratory, proposal: ProposalRecord) -> None:
    """Tells the person who watches where a model failed and another proposed in its place."""
    from archer.research.model import fallback_note

    note = fallback_note(proposal)
    if note:
        lab.watcher.note(note)


def _proposed(lab: Laboratory, cycle: CycleRecord) -> tuple[ProposalRecord | None, VerificationRecord | None]:
    """What an interrupted cycle already had: its proposal and, if it was verified, the verification."""
    if cycle.proposal is None:
        return None, None
    kept = lab.ledger.proposals(id=cycle.proposal)
    if not kept:  # stopped between the cycle's note of its proposal and the proposal itself
        return None, None
    found = () if repeats(kept[0]) else lab.ledger.verifications(rule=kept[0].rule)
    return kept[0], found[-1] if found else None


def _verify(
    lab: Laboratory, proposal: ProposalRecord, trust: bool = False, allow_many: bool = False
) -> VerificationRecord:
    lab.watcher.phase("verify", f"{proposal.rule}: {proposal.reason}" if proposal.reason else proposal.rule)
    if repeats(proposal):
        return lab.known_verification(proposal.rule)
    verification = lab.verify(proposal, trust, allow_many)
    for check in verification.checks:
        if not check.passed:
            lab.watcher.note(f"rejected by the check {check.name}: {check.message}")
    return verification


def _train_and_judge(
    lab: Laboratory, cycle: CycleRecord, proposal: ProposalRecord, verification: VerificationRecord
) -> Result:
    from archer.judge import Pair, compare

    *first, last = company(proposal)
    lab.watcher.phase("train", f"{proposal.rule} beside {', '.join(first)} and {last}")
    began = time.monotonic()
    together, reach = _beside(lab, proposal)
    names = tuple(together.subjects)
    others = dict.fromkeys((proposal.parent, REFERENCE))
    pairs = {other: Pair(proposal.rule, other, reach.same(proposal.rule, other)) for other in others}
    confirmation = None
    try:
        records, found = settle(together, [*pairs.values()], lab.seeds(proposal), cycle)
        seconds = round(time.monotonic() - began, 1)
        cycle = lab.put(cycle, rules=names, run_keys=_keys(records), wall_seconds=seconds)
        judged = dict(zip(pairs, found, strict=True))
        if _state(records) == "finished" and not repeats(proposal):
            confirmation = confirm_win(together, cycle, pairs[REFERENCE], judged[REFERENCE], records)
    except TimeIsUp as pause:
        return _paused(lab, cycle, pause, proposal, verification)
    if _state(records) == "failed":
        return _close(lab, cycle, "failed", proposal, verification, runs=tuple(records))
    lab.watcher.phase("judge")
    both = judged[proposal.parent], judged[REFERENCE]
    verdict = lab.judge(cycle, proposal, records, both, confirmation)
    everything = [*records, *together.others(cycle)]
    beside = (compare(everything, BASE, REFERENCE, preset=lab.preset.name),)
    closed = _close(lab, cycle, "finished", proposal, verification, verdict, tuple(records), beside)
    return replace(closed, confirmations=(confirmation,) if confirmation else ())


def _beside(lab: Laboratory, proposal: ProposalRecord) -> tuple[Company, Reach]:
    """A proposal's rule beside its company."""
    names = dict.fromkeys((proposal.rule, *company(proposal)))
    stood_for = None if proposal.rule in rule_names() else proposal.rule
    return gather(lab, [lab.subject(name) for name in names], recipe_of(lab.preset), stood_for)


def first_runs(lab: Laboratory, proposal: ProposalRecord) -> list[Run]:
    """What a cycle of this proposal trains, its company included, where the seeds come all at once."""
    together, _ = _beside(lab, proposal)
    return together.planned(lab.seeds(proposal), dict.fromkeys(together.subjects, TASKS))


def _keys(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Of the runs that were trained; stand-ins have none of their own."""
    return tuple(record.key for record in records if not record.key.endswith("="))


def _paused(
    lab: Laboratory,
    cycle: CycleRecord,
    pause: TimeIsUp,
    proposal: ProposalRecord | None = None,
    verification: VerificationRecord | None = None,
) -> Result:
    """The budget of time is used up: the cycle stays open, and the same call goes on with it."""
    cycle = lab.put(cycle, message=str(pause))
    return Result(cycle, pause.records, (), None, proposal, verification)


def _state(records: Sequence[RunRecord]) -> str:
    return "finished" if any(record.status == "finished" for record in records) else "failed"


def _close(
    lab: Laboratory,
    cycle: CycleRecord,
    state: Any,
    proposal: ProposalRecord | None = None,
    verification: VerificationRecord | None = None,
    verdict: VerdictRecord | None = None,
    runs: tuple[RunRecord, ...] = (),
    comparisons: tuple[Comparison, ...] = (),
    confirmations: tuple[ConfirmationRecord, ...] = (),
) -> Result:
    """Writes the report, then ends the cycle: an interrupted report is written again.

    confirmations: of a bench's winners; a verdict holds its own.
    """
    lab.watcher.phase("report")
    more = {"comparisons": comparisons, "ranks": lab.preset.ranks, "confirmations": confirmations}
    message = (
        verdict.summary
        if verdict
        else "; ".join(
            f"{c.name}: {c.message}" for c in (verification.checks if verification else ()) if not c.passed
        )
    )
    cycle = replace(cycle, state=state, finished_at=now(), message=message)
    paths = lab.report(cycle, **more)
    cycle = lab.put(cycle, finished_at=now(), report_paths=tuple(str(path) for path in paths))
    facts = lab.facts(cycle, **more)
    return Result(
        cycle, tuple(runs), paths, facts, proposal, verification, verdict, comparisons, confirmations
    )
