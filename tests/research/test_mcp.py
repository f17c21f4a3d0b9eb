"""The tools for coding agents, called with the official SDK's own client."""

import asyncio
import json
from dataclasses import replace

import pytest

from archer.errors import UserError
from archer.ledger.records import TASKS
from archer.research.mcp import LONGEST_SOURCE, build_server
from archer.rules.rule import VOCABULARY

pytest.importorskip("mcp", reason="the extra mcp is not installed")

SOURCE = '''"""Fading."""

from archer.rules import Parameter

parent = "delta_net"
gamma = Parameter(0.5, within=(0, 1))


def similarity(scores, causal, gamma):
    return gamma * scores * causal
'''
PREDICTIONS = {task: [0.5, 0.4, 0.6] for task in TASKS}
GOOD = {"source": SOURCE, "name": "faded", "reason": "less is more", "predictions": PREDICTIONS}


class ToyDesk:
    """A laboratory that only remembers."""

    def __init__(self, context):
        self.known, self.records = context, []

    def context(self):
        return self.known

    def verify(self, source, name):
        return {"passed": True, "duplicate_of": None, "checks": []}

    def submit(self, record):
        if self.records:
            raise UserError("the budget of 1 submissions is spent")
        self.records.append(record)
        return {"proposal": record.id, "state": "queued"}

    def verdict(self, proposal, wait_seconds):
        return {"proposal": proposal, "state": "finished", "waited": wait_seconds}

    def leaderboard(self):
        return [{"rule": "hybrid", "mean": None, "seeds": 1, "scores": {"Compress": None}}]

    def report(self, proposal):
        return f"# {proposal}"

    def submissions_left(self):
        return 1 - len(self.records)


def calls(server, *asked):
    """What the tools answer: (whether it is an error, the text) for each (name, arguments)."""
    from mcp import Client

    async def talk():
        async with Client(server) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            results = [await client.call_tool(name, arguments) for name, arguments in asked]
            return tools, [(r.is_error, "".join(c.text for c in r.content)) for r in results]

    return asyncio.run(talk())


@pytest.fixture
def desk(history_context):
    return ToyDesk(history_context)


def test_the_tools_are_those_of_the_documentation(desk):
    from pathlib import Path

    tools, _ = calls(build_server(desk))
    assert tools == {"context", "rule", "papers", "verify", "submit", "verdict", "leaderboard", "report"}
    text = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    assert all(f"`{tool}`" in text for tool in tools)


def test_a_whole_conversation(desk):
    _, answers = calls(
        build_server(desk),
        ("context", {}),
        ("rule", {"name": "gated_delta_net"}),
        ("papers", {"query": "negative eigenvalues"}),
        ("verify", {"source": SOURCE, "name": "faded"}),
        ("submit", GOOD | {"cites": ["sun-2023-retnet"], "wait_seconds": 3}),
        ("leaderboard", {}),
        ("report", {"proposal": "x"}),
    )
    assert not any(error for error, _ in answers)
    context = json.loads(answers[0][1])
    assert context["submissions_left"] == 1
    assert "gated_delta_net | 0.367" in context["text"]
    for name, meaning in VOCABULARY.items():
        assert f"{name}: {meaning}" in context["contract"]
    assert "def prepare" in json.loads(answers[1][1])["source"]
    assert "grazzi-2024-negative-eigenvalues" in answers[2][1]
    assert json.loads(answers[4][1])["waited"] == 3
    assert '"mean": null' in answers[5][1]
    record = desk.records[0]
    assert (record.rule, record.parent, record.slots) == ("faded", "delta_net", ("similarity",))
    assert record.researcher == "agent"
    assert record.cites == ("sun-2023-retnet",)
    assert [p.high for p in record.predictions] == [0.6] * 6


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("rule", {"name": "delta_nett"}, "did you mean 'delta_net'"),
        ("verify", {"source": SOURCE, "name": "../ledger"}, "expected a letter"),
        ("verify", {"source": "x" * (LONGEST_SOURCE + 1), "name": "big"}, "at most"),
        ("submit", GOOD | {"predictions": {}}, "predictions for Compress"),
        ("submit", GOOD | {"predictions": PREDICTIONS | {"Mean": [0, 0, 0]}}, "predictions for Mean"),
        ("submit", GOOD | {"predictions": {t: [0.5, 0.6, 0.4] for t in TASKS}}, "low <= score"),
        ("submit", GOOD | {"predictions": {t: [0.5, 0.4, 60] for t in TASKS}}, "high <= 1"),
        ("submit", GOOD | {"reason": " "}, "reason is empty"),
        ("submit", GOOD | {"reason": "x" * 10_000}, "at most 8000"),
        ("submit", GOOD | {"source": SOURCE.replace("delta_net", "nowhere")}, "unknown parent rule"),
        ("submit", GOOD | {"source": "def ("}, "not Python"),
        ("submit", GOOD | {"source": "parent = name\n"}, "parent is name; expected a name in quotes"),
        ("submit", GOOD | {"cites": ["no-card"]}, "unknown card"),
        ("submit", GOOD | {"wait_seconds": 1e9}, "expected 0 to 300"),
        ("verdict", {"proposal": "x", "wait_seconds": -1}, "expected 0 to 300"),
    ],
)
def test_what_is_out_of_form_is_refused_with_a_sentence(desk, tool, arguments, says):
    _, [(error, text)] = calls(build_server(desk), (tool, arguments))
    assert error
    assert says in text
    assert "Traceback" not in text


def test_the_desks_own_refusal_reaches_the_agent(desk):
    _, answers = calls(build_server(desk), ("submit", GOOD), ("submit", GOOD | {"name": "again"}))
    assert [error for error, _ in answers] == [False, True]
    assert "budget" in answers[1][1]


def test_the_same_text_is_the_same_proposal(desk):
    from archer.research.mcp import Text, make_record

    one = make_record(desk.known, SOURCE, "faded", PREDICTIONS, Text("because"))
    two = make_record(replace(desk.known, proposals=(one,)), SOURCE, "faded", PREDICTIONS, Text("why not"))
    other = make_record(desk.known, SOURCE + "\n", "faded", PREDICTIONS, Text("because"))
    assert one.id == two.id != other.id
