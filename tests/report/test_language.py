"""Two languages, the same facts: the same keys and places, the same numbers, no English in Chinese."""

from __future__ import annotations

import re
from dataclasses import replace
from string import Formatter

import pytest
from tests.report import example

from archer.ledger.records import TASKS
from archer.report.language import LANGUAGES, catalogue
from archer.report.note import build
from archer.report.summary import Spent, summarise
from archer.report.tree import (
    Block,
    Bullets,
    Code,
    Difference,
    Figure,
    Inline,
    Lineage,
    Note,
    Paragraph,
    Table,
)

NAMES = {*TASKS, "CRPS", "Holm", "MAD", "Archer", "Adam", "DeltaNet"}
MARKUP = re.compile(r"\*\*|`")


def places(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name)


def test_catalogues_have_the_same_keys():
    first, *others = (catalogue(language).entries for language in LANGUAGES)
    for other in others:
        assert other.keys() == first.keys()


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_every_entry_has_the_same_places_and_marks(language):
    english = catalogue("en").entries
    for key, text in catalogue(language).entries.items():
        assert set(places(text)) == set(places(english[key])), key
        assert sorted(MARKUP.findall(text)) == sorted(MARKUP.findall(english[key])), key
        assert text.strip(), key


def english_words(text: str) -> list[str]:
    """Three Latin words in a row, names of tasks and terms left out."""
    for name in sorted(NAMES, key=len, reverse=True):
        text = text.replace(name, "·")
    return re.findall(r"\b[A-Za-z]{2,}(?: [A-Za-z]{2,}){2,}\b", text)


def own_words(note: Note) -> list[str]:
    """Everything the note says itself: no code, nothing quoted from a researcher or a program."""
    found = [note.title, note.contents, *(section.heading for section in note.sections)]
    for block in note.blocks():
        found += [part for part in block_words(block) if part]
    return found


def block_words(block: Block) -> list[str]:
    if isinstance(block, Paragraph):
        return spans(block.text)
    if isinstance(block, Bullets):
        return [text for item in (*block.items, block.empty) for text in spans(item)]
    if isinstance(block, Table):
        return [
            *spans(block.caption),
            *block.columns,
            *(t for r in block.rows for c in r.cells for t in spans(c.text)),
        ]
    if isinstance(block, Figure):
        titles = [text for panel in block.panels for text in axis_titles(panel.spec)]
        return [*spans(block.caption), *(panel.description for panel in block.panels), *titles]
    if isinstance(block, Code | Difference | Lineage):
        return spans(block.caption)
    return []


def axis_titles(spec) -> list[str]:
    """Titles of axes and labels of marks inside a drawing."""
    if isinstance(spec, dict):
        own = [spec[key] for key in ("title", "label", "words") if isinstance(spec.get(key), str)]
        return own + [text for value in spec.values() for text in axis_titles(value)]
    return [text for value in spec for text in axis_titles(value)] if isinstance(spec, list | tuple) else []


def spans(inline: Inline) -> list[str]:
    return [span.text for span in inline if span.kind != "code" and not span.quoted]


def test_no_english_sentence_leaks_into_chinese():
    campaign = replace(example.campaign(), costs={"quick": example.COSTS}, spent=Spent(9.0, 9.0, 1.0, 2.0))
    notes = (
        build(example.facts("smoke", ranks=False), "zh"),
        build(example.confirmed_facts(), "zh"),
        summarise(campaign, "zh"),
    )
    for note in notes:
        words = own_words(note)
        assert len(words) > 50
        leaks = [text for text in words if english_words(text)]
        assert leaks == []


def test_no_chinese_entry_holds_english():
    """The entries that no example shows, too; places and code are left out."""
    for key, text in catalogue("zh").entries.items():
        own = re.sub(r"`[^`]*`|\{\w+\}", "·", text)
        assert not english_words(own), key
        assert re.search(r"[\u4e00-\u9fff]", own) or not re.search(r"[A-Za-z]{4,}", own) or own in NAMES, key


def test_the_check_for_leaks_finds_english():
    assert own_words(build(example.facts())) != []
    assert [text for text in own_words(build(example.facts())) if english_words(text)]


def test_chinese_says_the_same_numbers():
    number = re.compile(r"[+−]?\d+\.\d{3}")
    english, chinese = (
        sorted(number.findall(" ".join(own_words(build(example.facts(), x))))) for x in LANGUAGES
    )
    assert english == chinese
    assert len(english) > 500


def test_places_hold_no_markup():
    """What a value says is never read as markup."""
    found = catalogue("en").inline("lead.against", rule="**x**", baseline="`y`")
    assert [span.kind for span in found] == ["plain"] * len(found)
    assert "**x**" in [span.text for span in found]
