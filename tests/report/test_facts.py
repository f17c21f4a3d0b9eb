"""Facts from a ledger: everything a cycle's note needs, found by the cycle's own names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import example

from archer.ledger.history import builtin_history
from archer.ledger.store import Ledger
from archer.report.facts import Facts, gather
from archer.report.markdown import to_markdown
from archer.report.note import build
from archer.report.summary import gather_campaign, summarise


@pytest.fixture
def ledger(tmp_path):
    facts = example.facts(seeds=2, settings=1)
    assert facts.proposal is not None
    assert facts.verification is not None
    assert facts.verdict is not None
    with Ledger.in_folder(tmp_path) as found:
        found.add_runs(facts.runs)
        found.add_proposal(facts.proposal)
        found.add_verification(facts.verification)
        found.add_verdict(replace(facts.verdict, proposal="p-0000", rule="earlier"))
        found.add_verdict(facts.verdict)
        found.put_cycle(facts.cycle)
        yield found


def test_a_cycle_is_gathered_whole(ledger):
    (cycle,) = ledger.cycles()
    from archer.rules import get_rule, rule_names

    facts = gather(ledger, cycle, builtin_history(), map(get_rule, rule_names()), files=("rules/x.py",))
    assert facts.verdict is not None
    assert facts.verdict.rule == example.CANDIDATE
    assert [verdict.rule for verdict in facts.past] == ["earlier"]
    assert len(facts.runs) == len(cycle.run_keys)
    assert facts.aliases["gated_delta_net_4layer"] == "gated_delta_net"
    assert facts.rules[example.CANDIDATE].source == example.CANDIDATE_SOURCE
    text = to_markdown(build(facts))
    assert "delta_net.py" in text
    assert "Earlier verdicts" in text


def test_a_campaign_is_gathered_whole(ledger):
    campaign = gather_campaign(ledger)
    assert len(campaign.cycles) == 1
    assert campaign.last_verdicts()[-1].rule == example.CANDIDATE
    assert "1 cycles" not in summarise(campaign).title


def test_every_score_is_in_order_of_reading():
    facts = example.facts(seeds=2, settings=1)
    assert list(facts.measured()) == ["gated_delta_net", "delta_net", "hybrid_decay"]
    assert facts.in_order(["x", "gated_delta_net", "delta_net", "x", "hybrid_decay"]) == [
        "hybrid_decay",
        "delta_net",
        "gated_delta_net",
        "x",
    ]
    assert Facts(facts.cycle).measured() == {}
