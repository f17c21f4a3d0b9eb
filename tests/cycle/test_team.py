"""Whose turn it is: a record costs turns, a name stands for one text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archer.cycle.team import Ahead, Team, loses_turn, with_free_name
from archer.judge.predictions import TrackRow
from archer.ledger.records import ProposalRecord
from archer.research.researcher import Context
from archer.research.structured import StructuredResearcher
from archer.rules import get_rule

BLANK = ProposalRecord("p", "softmax", "delta_net", (), "", "", (), "model", "")


def context(crps, count=0, n=1000):
    """A researcher "model" whose predictions scored `crps`, where "no change" scored 0.1."""
    row = TrackRow("model", "All", n, 0.5, crps, 0.5, 0.1, (2.0,) * n, n, crps)
    sources = {name: get_rule(name).source for name in ("delta_net", "gated_delta_net")}
    return Context(sources, proposals=(BLANK,) * count, ranked_record=(row,))


@pytest.mark.parametrize(("crps", "lost"), [(0.05, 0.0), (0.1, 0.0), (0.2, 0.5), (9.0, 0.75)])
def test_who_predicts_worse_than_no_change_loses_turns(crps, lost):
    turns = [loses_turn(context(crps, count), "model") for count in range(400)]
    assert sum(turns) / 400 == pytest.approx(lost, abs=0.08)


def test_without_a_record_that_ranks_no_turn_is_lost():
    unknown = replace(context(9.0), ranked_record=(), track_record=context(9.0).ranked_record)
    assert not any(loses_turn(replace(unknown, seed=seed), "model") for seed in range(50))
    assert not any(loses_turn(replace(context(9.0), seed=seed), "other") for seed in range(50))


class Model:
    name = "model"

    def propose(self, context):
        return BLANK

    def learn(self, verdict, proposal):
        raise AssertionError("not asked")


def test_a_lost_turn_is_the_structured_searchs(monkeypatch):
    made = replace(BLANK, researcher="structured")
    monkeypatch.setattr(StructuredResearcher, "propose", lambda self, context: made)
    team = Team(Model(), 0.0)
    by = [team.propose(context(9.0, count)).researcher for count in range(40)]
    assert {"model", "structured"} == set(by)
    assert by.count("structured") > by.count("model")
    assert {team.propose(context(0.1, count)).researcher for count in range(40)} == {"model"}


def test_a_taken_name_gets_a_number():
    known = replace(context(0.1), proposals=(BLANK, replace(BLANK, rule="softmax_2")))
    assert with_free_name(BLANK, known).rule == "softmax_3"
    assert with_free_name(replace(BLANK, rule="gated_delta_net"), known).rule == "gated_delta_net_2"
    assert with_free_name(replace(BLANK, rule="new"), known).rule == "new"


def test_an_error_in_the_background_is_raised_once_and_for_its_candidate():
    done = []
    work = Ahead(lambda number: done.append(1 / (number - 3)), range(1, 5))
    work.check(2)
    with pytest.raises(ZeroDivisionError):
        work.check(3)
    work.check(3)
    assert len(done) == 2
