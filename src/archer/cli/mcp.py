"""`archer mcp`: the laboratory as tools for a coding agent, over standard input and output."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_note
from archer.cli.shared import DEFAULT_PROJECT
from archer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archer.cycle.laboratory import Laboratory
    from archer.cycle.training import Resources
    from archer.ledger.records import ProposalRecord, VerdictRecord
    from archer.mad import Preset
    from archer.research.researcher import Context


def command(
    project: Annotated[
        Path, typer.Option("--project", "-p", metavar="DIR", help="Project folder.")
    ] = DEFAULT_PROJECT,
    preset: Annotated[
        str, typer.Option("--preset", metavar="NAME", help="smoke, quick, baseline or full.")
    ] = "smoke",
    max_submissions: Annotated[
        int | None,
        typer.Option(
            "--max-submissions", metavar="N", min=1, help="How many rules the agent may have trained."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda or cuda:1.")
    ] = None,
) -> None:
    """Serve the laboratory to a coding agent (MCP, stdio).

    Its tools: context, rule, papers, verify, submit, verdict, leaderboard, report. The agent
    cannot touch evaluator, data or ledger. What it should read first is docs/agents.md.

    \b
    Example, `archer mcp --project my-project --preset quick` in an agent's configuration:
      {"command": "archer", "args": ["mcp", "--project", "my-project", "--preset", "quick"]}
    """
    from archer.cycle.plan import get_preset
    from archer.cycle.training import Resources, check_resources
    from archer.research.mcp import build_server

    resources, chosen = Resources(device=device), get_preset(preset)
    check_resources(resources, chosen.settings)
    desk = ProjectDesk(project, chosen, resources, max_submissions)
    server = build_server(desk)
    print_note(f"serving {project} under preset {preset} on standard input and output; Ctrl-C ends it")
    server.run("stdio")


@dataclass
class Submission:
    """Where a submitted proposal stands. done is set when it ends."""

    record: ProposalRecord
    state: str = "queued"
    message: str = ""
    verdict: VerdictRecord | None = None
    report: Path | None = None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class ProjectDesk:
    """A project folder behind the tools: one worker trains what was submitted, in order; reading never
    waits."""

    project: Path
    preset: Preset
    resources: Resources
    max_submissions: int | None = None
    _submissions: dict[str, Submission] = field(default_factory=dict)
    _queue: queue.Queue[Submission] = field(default_factory=queue.Queue)
    _worker: threading.Thread | None = None

    def context(self) -> Context:
        """What the ledger and the history say now, with what waits in the queue among the proposals."""
        from dataclasses import replace

        with self._reading() as lab:
            context = lab.context()
        known = {proposal.id for proposal in context.proposals}
        waiting = tuple(s.record for s in self._submissions.values() if s.record.id not in known)
        return replace(context, proposals=(*context.proposals, *waiting))

    def verify(self, source: str, name: str) -> dict[str, Any]:
        """All checks, in a contained process; nothing is written."""
        from archer.verify import verify_contained

        with self._reading() as lab:
            known = {rule: text for rule, text in lab.context().sources.items() if rule != name}
        lengths = tuple(sorted({setting.input_length for setting in self.preset.settings}))
        found = verify_contained(
            source, name, known=known, lengths=lengths, chunk_size=self.preset.chunk_size
        )
        checks = [{"name": c.name, "passed": c.passed, "message": c.message} for c in found.checks]
        return {"passed": found.passed, "duplicate_of": found.duplicate_of, "checks": checks}

    def submit(self, record: ProposalRecord) -> dict[str, Any]:
        """Queue a proposal. The same rule text twice is one submission."""
        if record.id not in self._submissions:
            left = self.submissions_left()
            if left is not None and left <= 0:
                raise UserError(f"the budget of {self.max_submissions} submissions is spent; read the report")
            self._submissions[record.id] = Submission(record)
            self._queue.put(self._submissions[record.id])
            self._start()
        return {"proposal": record.id, "state": self._submissions[record.id].state}

    def submissions_left(self) -> int | None:
        """The budget, less what was submitted and not rejected."""
        if self.max_submissions is None:
            return None
        return self.max_submissions - sum(s.state != "rejected" for s in self._submissions.values())

    def verdict(self, proposal: str, wait_seconds: float) -> dict[str, Any]:
        """Where a proposal of this or an earlier session stands."""
        if proposal in self._submissions:
            submission = self._submissions[proposal]
            submission.done.wait(wait_seconds)
            answer = {"proposal": proposal, "state": submission.state, "message": submission.message}
            return answer | (_verdict_facts(submission.verdict) if submission.verdict else {})
        with self._reading() as lab:
            found = lab.ledger.verdicts(proposal=proposal)
        if not found:
            raise UserError(f"there is no proposal '{proposal}' with a verdict; submit the rule (again)")
        return {"proposal": proposal, "state": "finished", "message": found[-1].summary} | _verdict_facts(
            found[-1]
        )

    def leaderboard(self) -> list[dict[str, Any]]:
        """Scores of the preset, best mean first; rules without a mean last. Where a rule computes what its
        parent computes, the parent's runs count."""
        from archer.cli.shared import latest_versions
        from archer.cycle.reach import Reach
        from archer.ledger.summary import score_table

        with self._reading() as lab:
            runs = lab.ledger.runs(preset=self.preset.name)
            stand_ins = Reach(lab.ledger, latest_versions(runs)).stand_ins()
            rows = score_table((*runs, *stand_ins), self.preset.name)
        ordered = sorted(rows, key=lambda row: (row.mean is None, -(row.mean or 0.0), row.rule))
        return [
            {"rule": row.rule, "mean": row.mean, "seeds": row.seeds, "scores": dict(row.scores)}
            for row in ordered
        ]

    def report(self, proposal: str) -> str:
        """The Markdown report of the cycle that judged a proposal."""
        with self._reading() as lab:
            cycles = [cycle for cycle in lab.ledger.cycles() if cycle.proposal == proposal]
        paths = [Path(path) for cycle in cycles for path in cycle.report_paths if path.endswith(".md")]
        if not paths or not paths[-1].is_file():
            raise UserError(f"there is no report on '{proposal}' yet; ask for its verdict first")
        return paths[-1].read_text(encoding="utf-8")

    @contextmanager
    def _reading(self) -> Iterator[Laboratory]:
        """The laboratory without its lock: for reading, while the worker may be training."""
        from archer.cycle.laboratory import Laboratory
        from archer.cycle.project import Project
        from archer.cycle.watch import Watcher
        from archer.ledger import Ledger, builtin_history

        with Ledger.in_folder(self.project) as ledger:
            yield Laboratory(
                Project(self.project), ledger, self.preset, builtin_history(), self.resources, Watcher()
            )

    def _start(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="archer submissions", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while True:
            submission = self._queue.get()
            submission.state = "running"
            try:
                self._cycle(submission)
            except Exception as error:  # noqa: BLE001 - one failing submission must not end the others
                submission.state, submission.message = "failed", f"{type(error).__name__}: {error}"
            finally:
                submission.done.set()

    def _cycle(self, submission: Submission) -> None:
        from archer.cycle import submit

        result = submit(submission.record, self.project, self.preset, self.resources)
        submission.message = result.verdict.summary if result.verdict else result.cycle.message
        submission.verdict = result.verdict
        submission.state = result.cycle.state


def _verdict_facts(verdict: VerdictRecord) -> dict[str, Any]:
    """A verdict's numbers, task by task."""
    facts: dict[str, Any] = {"rule": verdict.rule, "ranks": verdict.ranks}
    for name in ("against_parent", "against_reference"):
        comparison = getattr(verdict, name)
        facts[name] = {
            "baseline": comparison.baseline,
            "beats_on_all": comparison.beats_on_all,
            "tasks": [
                {
                    key: asdict(task)[key]
                    for key in ("task", "candidate", "baseline", "difference", "low", "high", "word")
                }
                for task in (*comparison.tasks, comparison.mean)
            ],
        }
    facts["confirmation"] = asdict(verdict.confirmation) if verdict.confirmation else None
    facts["predictions"] = [asdict(prediction) for prediction in verdict.predictions]
    return facts
