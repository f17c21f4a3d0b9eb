"""Looks and confirmation: how many, by which method, and both intervals, in every form of the report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import example
from tests.report.test_note import cells, find_table
from tests.report.test_terminal import printed

from archer.report import numbers
from archer.report.facts import Facts
from archer.report.html import to_html
from archer.report.language import catalogue
from archer.report.markdown import to_markdown
from archer.report.note import build
from archer.report.wording import Wording


@pytest.fixture(scope="module")
def confirmed() -> Facts:
    return example.confirmed_facts()


def both_differences(facts: Facts) -> list[str]:
    """The mean difference with which the rule won, and that of the fresh seeds, each with its interval."""
    assert facts.verdict is not None
    found = facts.verdict.confirmation
    assert found is not None
    return [
        f"{numbers.signed(line.difference, '')} {numbers.interval(line.low, line.high, '')}"
        for line in (found.first, found.comparison.mean)
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_looks_method_and_both_intervals_stand_everywhere(confirmed: Facts, language: str) -> None:
    note, words = build(confirmed, language), Wording(catalogue(language))
    terminal = printed(confirmed, 400, language)
    for text in (to_markdown(note), to_html(note), terminal):
        assert example.LOOKED in text
        assert words.catalogue.joined(["1", "3"]) in text
        for difference in both_differences(confirmed):
            assert difference in text


def test_every_look_says_what_it_could_spend_and_what_it_decided(confirmed: Facts) -> None:
    table = find_table(build(confirmed), "every look")
    assert confirmed.verdict is not None
    against = confirmed.verdict.against_reference
    assert cells(table, 0) == ["1", "1.25%", "all six tasks", "\u2013"]
    second = cells(table, 1)
    assert second[:3] == ["3", "3.75%", "all six tasks"]
    decided = [line.task for line in against.tasks if line.word != "undecided"]
    assert decided
    for line in against.tasks:
        assert (line.task in second[3]) == (line.task in decided)


def test_fresh_seeds_have_a_table_of_their_own_and_their_runs_are_listed(confirmed: Facts) -> None:
    note = build(confirmed)
    table = find_table(note, "Fresh seeds alone")
    assert confirmed.verdict is not None
    assert confirmed.verdict.confirmation is not None
    mean = confirmed.verdict.confirmation.comparison.mean
    assert numbers.signed(mean.difference, "") in cells(table, 6)[1]
    anchors = {name for row in find_table(note, "All 330 runs").rows for name in row.anchor.split()}
    assert {f"run-{run.key[:10]}" for run in confirmed.fresh_runs} <= anchors


def test_a_win_that_fresh_seeds_did_not_repeat_is_called_none() -> None:
    refused = to_markdown(build(example.confirmed_facts(confirmed=False)))
    assert "**Not confirmed with 3 fresh seeds" in refused
    assert "not called a winner" in refused
    assert "**Confirmed" not in refused


def test_a_win_without_fresh_seeds_is_no_winner_yet(confirmed: Facts) -> None:
    assert confirmed.verdict is not None
    won = replace(confirmed.verdict.against_reference, beats_on_all=True)
    alone = replace(confirmed.verdict, against_reference=won, confirmation=None)
    text = to_markdown(build(replace(confirmed, verdict=alone, fresh_runs=())))
    assert "may not be called a winner yet" in text
    assert "train it again with fresh seeds" in text
    held = replace(confirmed.verdict, against_reference=won)
    text = to_markdown(build(replace(confirmed, verdict=held)))
    assert "may not be called a winner yet" not in text
    assert "train it again with fresh seeds" not in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_under_a_preset_that_ranks_nothing_no_look_decides_and_no_win_is_confirmed(language: str) -> None:
    words = Wording(catalogue(language))
    text = to_markdown(build(example.confirmed_facts(ranks=False), language))
    for key in ("confirmation.confirmed", "confirmation.refused"):
        assert words.catalogue.entries[key].partition("{")[0] not in text
    looks = text.partition(words.text("column.alpha"))[2].partition(words.text("looks.reading"))[0]
    assert words.text("word.not_judged") in looks
