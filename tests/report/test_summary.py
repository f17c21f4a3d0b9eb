"""The note of a campaign: every cycle is in it, the best first, and what was rejected too."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import example

from archer.report.html import to_html
from archer.report.markdown import to_markdown
from archer.report.summary import Campaign, summarise
from archer.report.tree import Table, text_of


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    return example.campaign()


def tables(note) -> list[Table]:
    return [block for block in note.blocks() if isinstance(block, Table)]


def test_every_cycle_is_listed_in_order(campaign):
    table = next(t for t in tables(summarise(campaign)) if "Every cycle" in text_of(t.caption))
    assert [text_of(row.cells[0].text) for row in table.rows] == [cycle.id for cycle in campaign.cycles]
    assert [text_of(row.cells[5].text) for row in table.rows] == [
        "finished",
        "finished",
        "rejected before training",
    ]


def test_the_best_stand_by_mean_difference_and_presets_that_rank_nothing_are_left_out(campaign):
    ranked = next(t for t in tables(summarise(campaign)) if "by mean difference" in text_of(t.caption))
    assert [text_of(row.cells[0].text) for row in ranked.rows] == ["hybrid_decay", "softmax_decay"]
    verdicts = tuple(replace(verdict, ranks=False) for verdict in campaign.verdicts)
    text = to_markdown(summarise(replace(campaign, verdicts=verdicts)))
    assert "No verdict was reached under a preset that may rank" in text
    assert "This preset ranks nothing" in text


def test_a_winner_is_named_only_where_all_six_are_won(campaign):
    assert "No rule beats" in to_markdown(summarise(campaign))
    first = campaign.verdicts[0]
    won = replace(first, against_reference=replace(first.against_reference, beats_on_all=True))
    text = to_markdown(summarise(replace(campaign, verdicts=(won, *campaign.verdicts[1:]))))
    assert "hybrid_decay beats gated_delta_net on all six tasks" in text


def test_rejections_calibration_and_untried_rules_are_shown(campaign):
    text = to_markdown(summarise(campaign))
    assert "the future moved the past" in text
    assert "| structured search | 12 |" in text
    assert "local_softmax" in text


def test_later_verdicts_replace_earlier_ones(campaign):
    again = replace(campaign.verdicts[0], created_at="2025-07-09T00:00:00Z")
    assert len(replace(campaign, verdicts=(*campaign.verdicts, again)).last_verdicts()) == 2


def test_an_empty_campaign_and_the_page_work(campaign):
    assert "Nothing follows" in to_markdown(summarise(Campaign(())))
    assert to_html(summarise(campaign)).count("<svg") == 1
