"""`archer mcp` on a real project: over stdio, and from a submission to its verdict."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report import example

pytest.importorskip("mcp", reason="the extra mcp is not installed")

from archer.cli.mcp import ProjectDesk, Submission
from archer.cycle.plan import get_preset, named_subject, recipe_of, runs_of
from archer.cycle.training import Resources, run_record
from archer.errors import UserError
from archer.fleet.run import Outcome
from archer.ledger import Ledger
from archer.ledger.records import TASKS
from archer.research.mcp import build_server

SOURCE = '''"""Half: the weights inside the chunk count half."""

from archer.rules import Parameter

parent = "delta_net"
share = Parameter(0.4, within=(0, 1))


def similarity(scores, causal, share):
    return share * scores * causal
'''
LEAK = SOURCE.replace("* causal", "").replace("Half", "Leak")
SUBMISSION = {
    "source": SOURCE,
    "name": "half",
    "reason": "to see the tools work",
    "predictions": {task: [0.3, 0.1, 0.6] for task in TASKS},
}


async def ask(client, tool, **arguments):
    result = await client.call_tool(tool, arguments)
    text = "".join(part.text for part in result.content)
    assert not result.is_error, text
    return result.structured_content if result.structured_content is not None else text


def test_over_stdio_an_agent_reads_and_verifies(tmp_path):
    from mcp import Client, StdioServerParameters, stdio_client

    code = (
        "from pathlib import Path; from archer.cli.mcp import command; "
        f"command(Path({str(tmp_path / 'project')!r}), 'smoke', None, 'cpu')"
    )

    async def talk():
        server = StdioServerParameters(command=sys.executable, args=["-c", code])
        async with Client(stdio_client(server)) as client:
            context = await ask(client, "context")
            assert "delta_net" in context["rules"]
            verified = await ask(client, "verify", source=LEAK, name="leak")
            assert not verified["passed"]
            assert any(c["name"] == "causality" and not c["passed"] for c in verified["checks"])
            refused = await client.call_tool("verify", {"source": "import os", "name": "x"})
            assert "os" in "".join(part.text for part in refused.content)

    asyncio.run(talk())


@pytest.mark.parametrize("session", ["this", "a later"])
@pytest.mark.parametrize("said", [True, False, None])
def test_an_agent_reads_what_fresh_seeds_said_of_its_win(tmp_path, said, session):
    from mcp import Client

    verdict = (example.facts() if said is None else example.confirmed_facts(said)).verdict
    assert verdict is not None
    desk = ProjectDesk(tmp_path, get_preset("quick"), Resources(device="cpu"))
    if session == "this":
        desk._submissions[verdict.proposal] = Submission(
            example.facts().proposal, "finished", verdict=verdict
        )
    else:
        with Ledger.in_folder(tmp_path) as ledger:
            ledger.add_verdict(verdict)

    async def talk():
        async with Client(build_server(desk)) as client:
            return await ask(client, "verdict", proposal=verdict.proposal)

    answer = asyncio.run(talk())
    assert answer["state"] == "finished"
    if said is None:
        assert answer["confirmation"] is None
        return
    found, kept = answer["confirmation"], verdict.confirmation
    assert (found["claim"], found["confirmed"], found["seeds"]) == ("mean", said, [7000, 7001, 7002])
    assert found["first"]["difference"] == kept.first.difference
    fresh = found["comparison"]["mean"]
    assert (fresh["difference"], fresh["low"]) == (kept.comparison.mean.difference, kept.comparison.mean.low)
    assert fresh["difference"] < found["first"]["difference"]


@pytest.mark.slow
def test_from_a_submission_to_its_verdict(tmp_path):
    from mcp import Client

    smoke = get_preset("smoke")
    tiny = tuple(
        replace(s, train_examples=128, test_examples=128, validation_examples=128) for s in smoke.settings
    )
    preset = replace(smoke, settings=tiny, width=16, epochs=1)
    desk = ProjectDesk(tmp_path / "project", preset, Resources(device="cpu"), max_submissions=1)

    async def talk():
        async with Client(build_server(desk)) as client:
            first = await ask(client, "submit", **SUBMISSION)
            assert first["state"] in ("queued", "running")
            answer = first
            for _ in range(20):
                answer = await ask(client, "verdict", proposal=first["proposal"], wait_seconds=30)
                if answer["state"] not in ("queued", "running"):
                    break
            assert answer["state"] == "finished", answer
            assert [t["task"] for t in answer["against_reference"]["tasks"]] == [*TASKS, "Mean"]
            assert len(answer["predictions"]) == 6
            assert not answer["ranks"]
            rows = json.loads(json.dumps(await ask(client, "leaderboard")))
            names = {row["rule"] for row in (rows["result"] if isinstance(rows, dict) else rows)}
            assert {"half", "delta_net", "gated_delta_net"} <= names
            report = await ask(client, "report", proposal=first["proposal"])
            assert "half" in str(report)
            over = await client.call_tool("submit", SUBMISSION | {"name": "half2", "source": SOURCE + "\n"})
            assert over.is_error
            assert "budget" in over.content[0].text

    asyncio.run(talk())
    later = ProjectDesk(tmp_path / "project", preset, Resources(device="cpu"))
    with pytest.raises(UserError, match="no proposal 'nothing'"):
        later.verdict("nothing", 0)
    assert Path(tmp_path / "project").is_dir()


def test_a_rule_that_is_its_parent_somewhere_has_a_mean(tmp_path):
    """decay was not trained on Compress, where it computes what delta_net computes under smoke."""
    preset = get_preset("smoke")
    with Ledger.in_folder(tmp_path) as ledger:
        for rule in ("delta_net", "decay"):
            for run in runs_of(named_subject(rule), preset, recipe_of(preset)):
                if rule == "delta_net" or run.setting.task != "Compress":
                    score = Outcome(run.key, "finished", 0.5, 0.5, 0.5, 8, (), 1, 1.0, "cpu")
                    ledger.add_run(run_record(run, score, preset.name))
    rows = ProjectDesk(tmp_path, preset, Resources(device="cpu")).leaderboard()
    assert {row["rule"]: row["mean"] for row in rows} == {"delta_net": 0.5, "decay": 0.5}
