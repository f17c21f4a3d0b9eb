"""A laboratory: an open project with everything that the parts of a cycle share."""

from __future__ import annotations

import errno
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archer.cycle.measuring import Judging
from archer.cycle.plan import subject_of
from archer.cycle.project import Project, now
from archer.cycle.training import (
    Resources,
    check_data,
    check_race,
    check_resources,
    stand_by,
    starter,
    train_missing,
    training_plan,
)
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.fleet.run import Run, Subject
from archer.fleet.standby import Standby
from archer.ledger import LEDGER_NAME, HistoryTable, Ledger, builtin_history, project_lock, read_table
from archer.ledger.records import (
    CheckRecord,
    Comparison,
    ConfirmationRecord,
    CycleRecord,
    ProposalRecord,
    RuleSource,
    RunRecord,
    VerdictRecord,
    VerificationRecord,
)
from archer.mad import Preset
from archer.rules import BASE, REFERENCE, Rule, get_rule, load_rule, rule_names

if TYPE_CHECKING:
    from archer.judge.history import Analysis
    from archer.judge.noise import NoiseFloor
    from archer.research.researcher import Context
    from archer.verify.result import Verification


@dataclass
class Laboratory:
    """One project, one preset, one history: where a cycle happens. Open it with `open_laboratory`."""

    project: Project
    ledger: Ledger
    preset: Preset
    history: tuple[HistoryTable, ...]
    resources: Resources
    watcher: Watcher
    seed: int = 0
    found: dict[str, str] = field(default_factory=dict)
    verified: dict[str, VerificationRecord] = field(default_factory=dict)
    """Verifications that need not be made again, by proposal."""
    judging: Judging = field(default_factory=Judging)
    along: tuple[Run, ...] = ()
    """Runs of other proposals that the next training takes along, so that they are trained together."""
    standby: Standby | None = None
    """Training processes that get ready before there is a plan."""

    def __post_init__(self) -> None:
        for name, source in _loadable(self.ledger, self.watcher.note).items():
            self.found.setdefault(name, source)

    @property
    def history_digest(self) -> str:
        """Names what the history tables hold, in 12 hex digits."""
        return history_digest(self.history)

    # Rules

    def known_rules(self) -> list[Rule]:
        """The built-in rules, and those of this project that passed verification."""
        return [self.find(name) for name in dict.fromkeys([*rule_names(), *self.accepted()])]

    def find(self, name: str) -> Rule:
        """A rule by name: built in, or proposed in this project and verified."""
        return load_rule(self.found[name], name, self.find) if name in self.found else get_rule(name)

    def subject(self, name: str) -> Subject:
        """A rule as something to train."""
        return subject_of(self.find(name), self.found)

    # Cycles

    def begin(self, kind: str, **asked: Any) -> CycleRecord:
        """The unfinished cycle that was asked for in the same words, or a new one."""
        settings = {"kind": kind, "history": self.history_digest, **asked, **self.judging.asked}
        for cycle in self.ledger.cycles():
            same = cycle.preset == self.preset.name and cycle.seed == self.seed and cycle.settings == settings
            if cycle.state == "running" and same:
                self.watcher.note(f"continuing cycle {cycle.id}, begun {cycle.started_at}")
                return cycle
        number = f"{len(self.ledger.cycles()) + 1:04d}"
        cycle = CycleRecord(number, self.preset.name, self.seed, "running", now(), settings=settings)
        return self.put(cycle)

    def put(self, cycle: CycleRecord, **changes: Any) -> CycleRecord:
        """Keeps a cycle as it now stands."""
        cycle = replace(cycle, **changes)
        self.ledger.put_cycle(cycle)
        return cycle

    # What a researcher may know

    def context(self, pending: Iterable[str] = (), presets: Iterable[str] = ()) -> Context:
        """Everything that decides a proposal, from the ledger and the history (see `known`)."""
        from archer.cycle.knowledge import known

        return known(self, pending, presets)

    def accepted(self) -> dict[str, str]:
        """The texts of the rules of this project that passed verification, by name."""
        passed = {v.rule for v in self.ledger.verifications() if v.passed}
        return {name: source for name, source in self.found.items() if name in passed}

    def analysis(self) -> Analysis:
        """What the widest table of the history says."""
        from archer.judge import analyse
        from archer.judge.reach import history_same_function
        from archer.rules import resolve_history_name

        table = max(self.history, key=lambda t: (len(t.rows), t.name))
        return analyse(
            table,
            known_rules=rule_names(),
            resolve=resolve_history_name,
            same_function=history_same_function(),
        )

    # Verification

    def verify(
        self, proposal: ProposalRecord, trust: bool = False, allow_many: bool = False
    ) -> VerificationRecord:
        """Checks a proposal's rule in a contained process, and keeps what was found."""
        if proposal.id in self.verified:
            return self.verified[proposal.id]
        found = self.check(proposal.source, proposal.rule, trust, allow_many)
        record = self._verification_record(found)
        self.ledger.add_verification(record)
        if record.passed:
            self.found[proposal.rule] = proposal.source
            self.project.rule_file(proposal.rule, proposal.source)
            self.ledger.add_source(
                RuleSource(found.rule_hash, proposal.rule, proposal.parent, proposal.source)
            )
        return record

    def check(self, source: str, name: str, trust: bool = False, allow_many: bool = False) -> Verification:
        """Checks a rule in a contained process; nothing is kept."""
        from archer.verify import verify_contained

        lengths = tuple(sorted({setting.input_length for setting in self.preset.settings}))
        known = {n: s for n, s in self.accepted().items() if n != name}
        return verify_contained(
            source, name, known=known, lengths=lengths, chunk_size=self.preset.chunk_size, trust=trust,
            allow_many=allow_many,
        )  # fmt: skip

    def known_verification(self, name: str) -> VerificationRecord:
        """The verification that a rule passed; built-in rules passed theirs before they were built in."""
        passed = [v for v in self.ledger.verifications(rule=name) if v.passed]
        return passed[-1] if passed else VerificationRecord(name, self.find(name).hash, True, ())

    def _verification_record(self, found: Verification) -> VerificationRecord:
        checks = tuple(
            CheckRecord(c.name, c.passed, c.message, round(c.seconds, 4), c.case) for c in found.checks
        )
        reached = None
        if found.reach is not None:
            reached = tuple(s.name for s in self.preset.settings if s.input_length in found.reach)
        return VerificationRecord(
            found.name,
            found.rule_hash,
            found.passed,
            checks,
            found.duplicate_of,
            reached,
            found.trusted,
            found.walls,
            None if reached is None else tuple(s.name for s in self.preset.settings),
        )

    # Training and judging

    def stand_by(self) -> None:
        """Has the processes of the next training get ready in the background, where GPUs train."""
        stand_by(self.standby, training_plan(self.project, self.resources))

    def train(self, runs: Iterable[Run]) -> tuple[RunRecord, ...]:
        """Records of all these runs; trains those that the ledger lacks, and those that go along. Takes its
        time off the budget."""
        began, wanted = time.monotonic(), tuple(runs)
        names = {run.subject.name for run in wanted}
        others = dict.fromkeys(one.subject.name for one in self.along if one.subject.name not in names)
        if others:
            self.watcher.note(f"together with {', '.join(others)}")
        found = train_missing(
            self.ledger, self.project, (*wanted, *self.along), self.preset.name, self.resources, self.watcher,
            self.standby,
        )  # fmt: skip
        self.along = ()
        budget = self.resources.budget_seconds
        if budget is not None:
            left = max(1e-3, budget - (time.monotonic() - began))
            self.resources = replace(self.resources, budget_seconds=left)
        keys = {run.key for run in wanted}
        return tuple(record for record in found if record.trained_as in keys)

    @property
    def confirms(self) -> bool:
        """Whether winners are trained again with fresh seeds."""
        return self.preset.ranks if self.judging.confirm is None else self.judging.confirm

    @property
    def seed_count(self) -> int:
        """How many seeds each rule may have."""
        return self.judging.until_decided or self.preset.seeds

    def seeds(self, proposal: ProposalRecord) -> range:
        """The seeds that may be used, in order; for the n-th repeat of a rule as many new ones."""
        count = self.seed_count
        if not repeats(proposal):
            return range(count)
        earlier = [p.id for p in self.ledger.proposals() if repeats(p) and p.rule == proposal.rule]
        first = (earlier.index(proposal.id) + 1) * count
        return range(first, first + count)

    def judge(
        self,
        cycle: CycleRecord,
        proposal: ProposalRecord,
        runs: Sequence[RunRecord],
        judged: tuple[Comparison, Comparison],
        confirmation: ConfirmationRecord | None = None,
    ) -> VerdictRecord:
        """What the runs say about the proposal; kept in the ledger, once for each cycle.

        judged: against the parent and against the reference.
        """
        from archer.judge import verdict

        kept = self.ledger.verdicts(proposal=proposal.id, preset=self.preset.name)
        own = [one for one in kept if one.created_at >= cycle.started_at]
        if own:  # this cycle was interrupted between its verdict and its end
            return own[-1]
        found = verdict(
            proposal, runs, REFERENCE, self.preset.name, ranks=self.preset.ranks, judged=judged,
            confirmation=confirmation, floors=self.noise(),
        )  # fmt: skip
        self.ledger.add_verdict(found)
        return found

    def noise(self) -> dict[str, NoiseFloor]:
        """The noise under this preset, of all its runs in the ledger: what `archer table` prints too."""
        from archer.cycle.reach import Reach

        return Reach(self.ledger, self.ledger.runs(preset=self.preset.name)).noise()

    # Reporting

    def facts(self, cycle: CycleRecord, language: str = "en", **more: Any) -> Any:
        """The facts of a cycle's report. A bench has no verdict that would hold the noise."""
        from archer.mad import TASKS
        from archer.report import gather
        from archer.report.writing import note_paths

        if cycle.proposal is None:
            counts = Counter(setting.task for setting in self.preset.settings)
            noise = self.noise()
            floors = {task: noise[task].score_sd(count) for task, count in counts.items() if task in noise}
            more = {"noise_floor": floors, **more}
        more = {"files": self._rule_files(cycle), **more}
        paths = note_paths(self.project.reports / cycle.id, language=language)
        cycle = replace(cycle, report_paths=tuple(map(str, paths)))
        facts = gather(self.ledger, cycle, self.history, self.known_rules(), **more)
        settings = {setting.task: setting for setting in self.preset.settings}
        return replace(
            facts, chance={task: TASKS[task].chance(setting) for task, setting in settings.items()}
        )

    def _rule_files(self, cycle: CycleRecord) -> list[str]:
        """The file of the rule that a cycle proposed, if it was written."""
        proposals = self.ledger.proposals(id=cycle.proposal) if cycle.proposal else ()
        paths = [self.project.rules / f"{proposal.rule}.py" for proposal in proposals]
        return [str(path) for path in paths if path.exists()]

    def report(self, cycle: CycleRecord, language: str = "en", **more: Any) -> tuple[Path, Path]:
        """Writes a cycle's report and gives the paths of the Markdown and the HTML file."""
        from archer.report import build, write

        return write(build(self.facts(cycle, language, **more), language), self.project.reports / cycle.id)


def accepted_in(folder: str | Path) -> dict[str, str]:
    """Texts of the rules that passed verification in a project, by name; none where there is no project."""
    if not (Path(folder) / LEDGER_NAME).exists():
        return {}
    with Ledger.in_folder(folder, read_only=True) as ledger:
        return _loadable(ledger)


def _loadable(ledger: Ledger, say: Callable[[str], None] = lambda left_out: None) -> dict[str, str]:
    """The accepted rules of a ledger, but those whose texts would do more than declare while this process
    loads them: whoever wrote the ledger may have lifted the language wall."""
    from archer.verify.language import Refused, check_top

    found = {}
    for name, source in ledger.accepted().items():
        try:
            check_top(source, name)
        except Refused as refused:
            say(f"a rule of this ledger is left out: {refused}")
        else:
            found[name] = source
    return found


@contextmanager
def open_laboratory(
    folder: str | Path,
    preset: Preset,
    *,
    history: str | Path | None = None,
    seed: int = 0,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
    judging: Judging | None = None,
) -> Iterator[Laboratory]:
    """A laboratory in a project folder, for this process alone. Nothing is written where the input is wrong.

    history: a table to use instead of the built-in ones.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}: expected 0 or more")
    tables = (read_table(history),) if history is not None else builtin_history()
    _require_reference(tables)
    project, resources = Project(Path(folder)), resources or Resources()
    check_resources(resources, preset.settings)
    check_race(resources, preset.name)
    with (
        _full_disk_said(project.folder),
        project_lock(project.folder),
        Ledger.in_folder(project.folder) as ledger,
        closing(Standby(starter(resources))) as standby,
    ):
        check_data(project, ledger, resources)
        yield Laboratory(
            project, ledger, preset, tables, resources, watcher or Watcher(), seed,
            judging=judging or Judging(), standby=standby,
        )  # fmt: skip


@contextmanager
def _full_disk_said(folder: Path) -> Iterator[None]:
    """A full disk as an error that says what to do; the ledger says so itself."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror}. What was recorded is safe: "
            "free some space, and the same command continues"
        ) from error


def repeats(proposal: ProposalRecord) -> bool:
    """Whether a proposal is a known rule once more, under new seeds."""
    return proposal.control and proposal.researcher == "repeat"


def company(proposal: ProposalRecord) -> tuple[str, ...]:
    """The rules that are trained beside a proposal's."""
    return tuple(dict.fromkeys((proposal.parent, REFERENCE, BASE)))


def _require_reference(tables: Sequence[HistoryTable]) -> None:
    from archer.rules import resolve_history_name

    for table in tables:
        known = {resolve_history_name(row.model) for row in table.rows}
        for needed in (BASE, REFERENCE):
            if needed not in known:
                raise UserError(
                    f"history table {table.path or table.name}: no row is {needed}; expected one named "
                    f"{get_rule(needed).history[0]} (or {needed}), so that the others can be compared with it"
                )


def history_digest(tables: Sequence[HistoryTable]) -> str:
    """Names what history tables hold, in 12 hex digits."""
    rows = [(t.name, sorted((r.model, sorted(r.scores.items())) for r in t.rows)) for t in tables]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
