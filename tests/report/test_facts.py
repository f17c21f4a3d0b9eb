"""Facts from a ledger: everything a cycle's note needs, found by the cycle's own names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import example

from archer.ledger.history import builtin_history
from archer.ledger.records import RuleSource
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


def test_of_two_texts_with_one_name_each_has_its_own_verification(ledger):
    """The last of the name may be of another text: passed, rejected, or not even readable."""
    from archer.rules import get_rule, load_rule, rule_names

    (cycle,), (proposal,) = ledger.cycles(), ledger.proposals()
    (first,) = ledger.verifications()
    rules = [get_rule(name) for name in rule_names()]
    texts = {name: f"{proposal.source}\n# {name}\n" for name in ("passed", "rejected")}
    hashes = {name: load_rule(text, proposal.rule, get_rule).hash for name, text in texts.items()}
    assert first.rule_hash not in hashes.values()
    for name, text in texts.items():
        checks = (replace(first.checks[0], message=name),)
        ledger.add_verification(
            replace(first, rule_hash=hashes[name], passed=name == "passed", checks=checks)
        )
        if name == "passed":
            ledger.add_source(RuleSource(hashes[name], proposal.rule, proposal.parent, text))
        ledger.add_proposal(replace(proposal, id=name, source=text))
    found = {name: gather(ledger, replace(cycle, proposal=name), (), rules).verification for name in texts}
    assert {name: one and one.checks[0].message for name, one in found.items()} == {n: n for n in texts}
    ledger.add_source(RuleSource(hashes["rejected"], proposal.rule, proposal.parent, texts["rejected"]))
    assert (
        gather(ledger, cycle, (), rules).verification == first
    )  # its hash is made up; the others are of other texts


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
