"""The paper cards: complete, found by the words a person would use, and extendable."""

import json
import re

import pytest

from archer.errors import UserError
from archer.ledger.history import builtin_history, published_table
from archer.research.papers import FOLDER, CardError, all_cards, get_card, read_card, search_cards
from archer.research.templates import TEMPLATES

SECTIONS = ("## Mechanism", "## Where it fits", "## What was shown")


def test_there_are_at_least_forty_and_each_is_complete():
    cards = all_cards()
    assert len(cards) >= 40
    for card in cards:
        assert all(section in card.text for section in SECTIONS), card.id
        assert len(card.text) > 250, card.id
        assert (FOLDER / f"{card.id}.md").exists(), card.id


def test_arxiv_numbers_are_numbers_of_their_year():
    for card in all_cards():
        if card.arxiv:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv), card.id
            assert abs(2000 + int(card.arxiv[:2]) - card.year) <= 1, card.id


def test_every_card_gives_a_figure_with_its_source_or_says_that_it_has_none():
    for card in all_cards():
        shown = " ".join(card.text.split("## What was shown")[1].split("## Beware")[0].split())
        sourced = any(
            word in shown for word in ("(abstract", "(paper", "(introduction", ".csv", "arXiv:", "(theory")
        )
        assert sourced or "No figure is recorded here" in shown, card.id


def test_figures_of_the_history_are_those_of_the_tables():
    """A number with three digits in a card that names a table occurs in that table."""
    tables = {table.path.name: table for table in (*builtin_history(), published_table())}
    checked = 0
    for card in all_cards():
        shown = " ".join(card.text.split("## What was shown")[1].split())
        named = [name for name in tables if name in shown] + ["published_mad.csv"] * ("MAD table" in shown)
        known = {f"{x:.3f}" for name in named for row in tables[name].rows for x in row.scores.values()}
        means = {f"{sum(r.scores.values()) / 6:.3f}" for name in named for r in tables[name].rows}
        for number in re.findall(r"\b[01]\.\d{3}\b", shown) if named else ():
            assert number in known | means, (card.id, number)
            checked += 1
    assert checked > 40


def test_what_templates_cite_exists():
    cited = {card for template in TEMPLATES for card in template.cards}
    assert cited <= {card.id for card in all_cards()}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("softmax temperature normalised query key", "henry-2020-query-key-norm"),
        ("negative eigenvalues", "grazzi-2024-negative-eigenvalues"),
        ("momentum surprise forgetting", "behrouz-2024-titans"),
        ("linear bias distance penalty", "press-2021-alibi"),
        ("2412.06464", "yang-2024-gated-delta-net"),
        ("local window attention Taylor map", "arora-2024-based"),
        ("bounded error outlier Huber loss", "huber-1964-robust"),
        ("decay per key channel", "kimi-2025-kda"),
    ],
)
def test_a_query_finds_its_card_among_the_first_three(query, expected):
    assert expected in [found.card.id for found in search_cards(query)[:3]]


def test_scores_fall_and_nothing_is_found_for_nonsense():
    scores = [found.score for found in search_cards("softmax attention", limit=60)]
    assert scores == sorted(scores, reverse=True)
    assert search_cards("zzzyqx") == ()
    with pytest.raises(CardError, match="empty"):
        search_cards("  ?! ")


def test_bm25_by_hand():
    from collections import Counter

    from archer.research.papers import _bm25

    scores = _bm25(["a"], [Counter("aab"), Counter("bbb"), Counter("bcd")])
    rarity = 0.9808292530117262  # log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    assert scores == pytest.approx([rarity * 2 * 2.2 / (2 + 1.2), 0, 0])


CARD = """---
id: mine-2025-idea
title: My idea
authors: Me
year: 2025
arXiv: none
slot: retain
helps: Compress
---

## Mechanism

A zebra keeps the state.
"""


def test_a_folder_adds_and_replaces(tmp_path):
    (tmp_path / "one.md").write_text(CARD, encoding="utf-8")
    (tmp_path / "two.md").write_text(CARD.replace("mine-2025-idea", "press-2021-alibi"), encoding="utf-8")
    assert search_cards("zebra", tmp_path)[0].card.id == "mine-2025-idea"
    assert search_cards("zebra") == ()
    assert not get_card("press-2021-alibi", tmp_path).built_in
    assert len(all_cards(tmp_path)) == len(all_cards()) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("---\nid", "id"), "front matter between"),
        (("title: My idea\n", ""), "missing in the front matter: title"),
        (("year: 2025", "year: soon"), "year is 'soon'"),
        (("slot: retain", "slot: retention"), "slot is 'retention'"),
        (("authors: Me", "authors Me"), "has no colon"),
    ],
)
def test_a_bad_card_is_refused_with_its_file(tmp_path, change, message):
    path = tmp_path / "bad.md"
    path.write_text(CARD.replace(*change, 1), encoding="utf-8")
    with pytest.raises(CardError, match=message) as caught:
        read_card(path)
    assert "bad.md" in str(caught.value)


def test_unknown_card_and_folder():
    with pytest.raises(UserError, match="did you mean 'press-2021-alibi'"):
        get_card("pres-2021-alibi")
    with pytest.raises(CardError, match="no folder"):
        all_cards("nowhere")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["negative", "eigenvalues"], "grazzi-2024-negative-eigenvalues"),
        (["press-2021-alibi"], "What was shown"),
        ([], "zhang-2019-rmsnorm"),
    ],
)
def test_the_command_finds_and_shows(arguments, says):
    from typer import Typer
    from typer.testing import CliRunner

    from archer.cli.papers import command

    app = Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert says in result.stdout
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.stdout)
