"""A coding agent as the researcher: the laboratory as tools over the Model Context Protocol (official SDK).

The agent reads the context, verifies a rule, submits it and reads the verdict. It never holds the ledger, the
data or the evaluator: all it can pass in are a rule's text, words and numbers, and all of it goes through the
same verification and containment as any other proposal. Needs the extra `mcp`.

`Desk` is what stands behind the tools; `archer mcp` gives one that runs cycles in a project folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from pydantic import Field

from archer.errors import UserError
from archer.ledger.records import TASKS, Prediction, ProposalRecord
from archer.research.papers import get_card, search_cards
from archer.research.prompt import CONTRACT, question
from archer.research.researcher import Context, ResearchError
from archer.research.rule_text import read_rule

if TYPE_CHECKING:
    from mcp.server import MCPServer

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")
LONGEST_SOURCE = 65_536
LONGEST_TEXT = 8_000
LONGEST_WAIT_SECONDS = 300.0
RESEARCHER = "agent"

INSTRUCTIONS = """\
You are the researcher of an autonomous laboratory for linear attention. Find one rule (a version of the delta
rule) that beats gated_delta_net on all six MAD tasks. Call `context` first; then `verify` a rule as often as
you like, `submit` it with numeric predictions, and read `verdict`. A rule file is Python: a line
`parent = "..."`, declarations, and one function named after a slot."""

Returned = TypeVar("Returned")
Name = Annotated[str, Field(description="The rule's name: a letter, then letters, digits or _, at most 60.")]
Source = Annotated[str, Field(description="The whole text of the rule file.")]
Words = Annotated[str, Field(description="In your own words; kept in the ledger and the report.")]
Wait = Annotated[float, Field(description="Wait up to so many seconds for an end, at most 300.")]
Expected = Annotated[
    dict[str, list[float]],
    Field(description=f"Task to [score, low, high], 90% intervals: {', '.join(TASKS)}."),
]


@dataclass(frozen=True)
class Text:
    """What an agent says about its rule."""

    reason: str
    insights: str = ""
    issue: str = ""
    reasoning: str = ""
    lessons: str = ""


class Desk(Protocol):
    """What the tools need of a laboratory. All values are plain (they become JSON)."""

    def context(self) -> Context:
        """All that a researcher may know now."""
        ...

    def verify(self, source: str, name: str) -> dict[str, Any]:
        """`passed`, `checks` (name, passed, message), `duplicate_of`."""
        ...

    def submit(self, record: ProposalRecord) -> dict[str, Any]:
        """Queue a proposal: `proposal`, `state`. Raises UserError where the budget is spent."""
        ...

    def verdict(self, proposal: str, wait_seconds: float) -> dict[str, Any]:
        """`state` (queued, running, rejected, failed, finished) and, at the end, what was found."""
        ...

    def leaderboard(self) -> list[dict[str, Any]]:
        """Rules with their scores under the preset, best mean first."""
        ...

    def report(self, proposal: str) -> str:
        """The report of a finished proposal, as Markdown."""
        ...

    def submissions_left(self) -> int | None:
        """How many more may be submitted; None for no limit."""
        ...


def build_server(desk: Desk) -> MCPServer:
    """A server whose tools are the desk. Raises ResearchError where the extra `mcp` is missing."""
    try:
        from mcp.server import MCPServer
    except ImportError as error:
        raise ResearchError(
            "archer mcp needs the extra mcp: pip install -e '.[mcp]' in Archer's folder"
        ) from error
    server = MCPServer("archer", instructions=INSTRUCTIONS, log_level="WARNING")
    for tool in (*_reading_tools(desk), *_proposing_tools(desk)):
        server.add_tool(tool, name=tool.__name__, description=tool.__doc__)
    return server


def _reading_tools(desk: Desk) -> list[Callable[..., Any]]:
    def context() -> dict[str, Any]:
        """The goal, the contract of a rule, the scores so far, what was tried and why it failed, parents'
        code, and the budget left."""
        known = desk.context()
        return {
            "goal": f"a rule better than {known.reference} on all six tasks",
            "preset": known.preset,
            "tasks": list(TASKS),
            "rules": sorted(known.sources),
            "submissions_left": desk.submissions_left(),
            "contract": CONTRACT,
            "text": question(known),
        }

    def rule(name: Name) -> dict[str, Any]:
        """The text of a known rule: what a parent looks like."""
        sources = desk.context().sources
        if name not in sources:
            from archer.errors import unknown

            raise unknown("rule", name, sources)
        return {"name": name, "source": sources[name]}

    def papers(
        query: Annotated[str, Field(description="Some words, or a card's id.")],
    ) -> list[dict[str, Any]]:
        """Search sixty cards on linear attention and fast weights: mechanism, slot, what was shown."""
        return [
            {"id": f.card.id, "title": f.card.title, "slot": f.card.slot, "text": f.card.text}
            for f in search_cards(query, limit=5)
        ]

    def leaderboard() -> list[dict[str, Any]]:
        """All rules measured under the preset, best mean first; a score that is missing is null."""
        return desk.leaderboard()

    def report(proposal: str) -> str:
        """The research note of a finished proposal, as Markdown."""
        return desk.report(proposal)

    return [_plain_errors(tool) for tool in (context, rule, papers, leaderboard, report)]


def _proposing_tools(desk: Desk) -> list[Callable[..., Any]]:
    def verify(source: Source, name: Name) -> dict[str, Any]:
        """Check a rule as a submission would be checked: causality, gradients, cost, novelty. Costs no
        budget."""
        _check_source(source, name)
        return desk.verify(source, name)

    def submit(
        source: Source,
        name: Name,
        reason: Words,
        predictions: Expected,
        insights: Words = "",
        issue: Words = "",
        reasoning: Words = "",
        lessons: Words = "",
        cites: Annotated[list[str] | None, Field(description="Ids of paper cards.")] = None,
        wait_seconds: Wait = 0,
    ) -> dict[str, Any]:
        """Verify, train and judge a rule. Answers at once with a proposal's id, unless told to wait."""
        text = Text(reason, insights, issue, reasoning, lessons)
        record = make_record(desk.context(), source, name, predictions, text, tuple(cites or ()))
        answer = desk.submit(record)
        return desk.verdict(record.id, _wait(wait_seconds)) if wait_seconds > 0 else answer

    def verdict(proposal: str, wait_seconds: Wait = 0) -> dict[str, Any]:
        """Where a proposal stands: queued, running, rejected, failed or finished, and then what was found."""
        return desk.verdict(proposal, _wait(wait_seconds))

    return [_plain_errors(tool) for tool in (verify, submit, verdict)]


def make_record(
    context: Context,
    source: str,
    name: str,
    predictions: dict[str, list[float]],
    text: Text,
    cites: tuple[str, ...] = (),
) -> ProposalRecord:
    """An agent's words as a proposal; the same name and text is the same proposal. Raises ResearchError for
    anything that is out of form."""
    _check_source(source, name)
    for field, words in asdict(text).items():
        if len(words) > LONGEST_TEXT:
            raise ResearchError(f"{field} has {len(words)} characters, at most {LONGEST_TEXT} are kept")
    if not text.reason.strip():
        raise ResearchError("reason is empty: say in one sentence why the rule should be better")
    rule = read_rule(source, name)
    if rule.parent is None or rule.parent not in context.sources:
        from archer.errors import unknown

        raise unknown("parent rule", str(rule.parent), context.sources)
    for cite in cites:
        get_card(cite)
    return ProposalRecord(
        id=_submission_id(name, source),
        rule=name,
        parent=rule.parent,
        slots=tuple(rule.functions),
        source=source,
        predictions=_predictions(predictions),
        researcher=RESEARCHER,
        created_at=context.now,
        cites=cites,
        reason=text.reason,
        insights=text.insights,
        issue=text.issue,
        reasoning=text.reasoning,
        lessons=text.lessons,
    )


def _submission_id(name: str, source: str) -> str:
    digest = hashlib.sha256("\0".join((name, source)).encode()).hexdigest()
    return f"{RESEARCHER}-{digest[:12]}"


def _check_source(source: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise ResearchError(f"name '{name[:80]}': expected a letter, then letters, digits or _, at most 60")
    if len(source) > LONGEST_SOURCE:
        raise ResearchError(f"the rule file has {len(source)} characters, at most {LONGEST_SOURCE} are read")


def _predictions(given: dict[str, list[float]]) -> tuple[Prediction, ...]:
    wrong = [task for task in TASKS if len(given.get(task, ())) != 3] or sorted(set(given) - set(TASKS))
    if wrong:
        raise ResearchError(
            f"predictions for {wrong[0]}: expected [score, low, high] for each of {', '.join(TASKS)}"
        )
    made = tuple(Prediction(task, *given[task]) for task in TASKS)
    for one in made:
        if not 0 <= one.low <= one.score <= one.high <= 1:
            raise ResearchError(f"predictions for {one.task}: expected 0 <= low <= score <= high <= 1")
    return made


def _wait(seconds: float) -> float:
    if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
        raise ResearchError(f"wait_seconds is {seconds:g}: expected 0 to {LONGEST_WAIT_SECONDS:g}")
    return seconds


def _plain_errors(tool: Callable[..., Returned]) -> Callable[..., Returned]:
    """A user's problem becomes a tool error with its sentence; anything else is our mistake and stays one."""
    from functools import wraps

    from mcp.server.mcpserver.exceptions import ToolError

    @wraps(tool)
    def wrapped(*arguments: Any, **named: Any) -> Returned:
        try:
            return tool(*arguments, **named)
        except UserError as error:
            raise ToolError(str(error)) from error

    return wrapped
