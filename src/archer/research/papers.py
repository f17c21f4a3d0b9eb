"""The paper cards: what is known of linear attention and fast weights, in our own words, searchable offline.

A card is a Markdown file with a few lines of front matter (see `FIELDS`). A folder of a user's own cards is
searched along with the built-in ones; a card of the same id replaces the built-in one.

Ranking is BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019) over words without their plural s; a
word in a title, a slot or an id counts `TITLE_WEIGHT` times.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from archer.errors import UserError, unknown
from archer.rules.rule import SLOTS

FOLDER = Path(__file__).parent / "cards"
FIELDS = ("id", "title", "authors", "year", "arXiv", "slot", "helps")
"""What the front matter of a card must say. arXiv may be `none`; slot is a slot of the loop, or `none`."""

K1, B = 1.2, 0.75
TITLE_WEIGHT = 3
LIMIT_BYTES = 2**18

SYNONYMS = {"memorisation": "memorize", "memorization": "memorize", "normalised": "normalized"}
"""Words that are read as another word."""


class CardError(UserError):
    """A card that cannot be read; the message names the file and what is missing."""


@dataclass(frozen=True)
class Card:
    """One paper. text: the Markdown below the front matter. built_in: whether it came with the package."""

    id: str
    title: str
    authors: str
    year: int
    arxiv: str
    slot: str
    helps: str
    text: str
    built_in: bool = True

    @property
    def reference(self) -> str:
        """Authors, year and where it can be found, on one line."""
        first = self.authors.split(",")[0].strip()
        return f"{first} {self.year}" + (f", arXiv:{self.arxiv}" if self.arxiv else "")


@dataclass(frozen=True)
class Found:
    """A card and its BM25 score; higher fits better."""

    card: Card
    score: float


def read_card(path: Path, built_in: bool = False) -> Card:
    """Read one card. Raises CardError, naming file and field, where it is not one."""
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise CardError(f"{path}: larger than {LIMIT_BYTES // 1024} KiB: that is no card")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{path}: cannot be read as a card: {error}") from error
    match = re.fullmatch(r"﻿?---\r?\n(.*?)\r?\n---\r?\n(.*)", text, re.DOTALL)
    if match is None:
        raise CardError(f"{path}: a card begins with front matter between two lines of ---")
    fields = dict(_field(line, path) for line in match[1].splitlines() if line.strip())
    missing = [name for name in FIELDS if not fields.get(name)]
    if missing:
        raise CardError(f"{path}: missing in the front matter: {', '.join(missing)}")
    if not fields["year"].isdigit():
        raise CardError(f"{path}: year is '{fields['year']}', expected a number")
    if fields["slot"] not in (*SLOTS, "none"):
        raise CardError(f"{path}: slot is '{fields['slot']}', expected one of {', '.join(SLOTS)} or none")
    return Card(
        id=fields["id"],
        title=fields["title"],
        authors=fields["authors"],
        year=int(fields["year"]),
        arxiv="" if fields["arXiv"] == "none" else fields["arXiv"],
        slot=fields["slot"],
        helps=fields["helps"],
        text=match[2].strip(),
        built_in=built_in,
    )


def _field(line: str, path: Path) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise CardError(f"{path}: front matter line '{line}' has no colon; expected `name: value`")
    return name.strip(), value.strip().strip('"')


def all_cards(folder: Path | str | None = None) -> tuple[Card, ...]:
    """The built-in cards and a folder's own (its *.md files), by id. Raises CardError for a bad one."""
    cards = {card.id: card for card in _built_in()}
    if folder is not None:
        folder = Path(folder)
        if not folder.is_dir():
            raise CardError(f"{folder} is no folder: give one that holds cards as *.md files")
        cards |= {card.id: card for card in map(read_card, sorted(folder.glob("*.md")))}
    return tuple(cards[name] for name in sorted(cards))


@cache
def _built_in() -> tuple[Card, ...]:
    return tuple(read_card(path, built_in=True) for path in sorted(FOLDER.glob("*.md")))


def get_card(card_id: str, folder: Path | str | None = None) -> Card:
    """One card by its id. Raises UserError with the nearest ids where there is none."""
    cards = {card.id: card for card in all_cards(folder)}
    if card_id not in cards:
        raise unknown("card", card_id, cards)
    return cards[card_id]


def search_cards(query: str, folder: Path | str | None = None, limit: int = 8) -> tuple[Found, ...]:
    """The cards that fit a query best, best first; none where no word of it occurs.

    Equal scores stand by id. Raises CardError for an empty query.
    """
    words = _words(query)
    if not words:
        raise CardError("the query is empty: give some words, such as 'softmax temperature'")
    cards = all_cards(folder)
    scores = _bm25(words, [_counts(card) for card in cards])
    found = [Found(card, score) for card, score in zip(cards, scores, strict=True) if score > 0]
    return tuple(sorted(found, key=lambda one: (-one.score, one.card.id))[:limit])


def _bm25(words: Iterable[str], documents: list[Counter[str]]) -> list[float]:
    lengths = [sum(counts.values()) for counts in documents]
    average = sum(lengths) / max(len(lengths), 1)
    scores = [0.0] * len(documents)
    for word in dict.fromkeys(words):
        holding = sum(word in counts for counts in documents)
        rarity = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for index, counts in enumerate(documents):
            count = counts[word]
            scores[index] += rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * lengths[index] / average))
    return scores


@cache
def _counts(card: Card) -> Counter[str]:
    counts = Counter(_words(f"{card.text} {card.helps} {card.authors} {card.year} {card.arxiv}"))
    for word in _words(f"{card.title} {card.slot} {card.id}"):
        counts[word] += TITLE_WEIGHT
    return counts


def _words(text: str) -> list[str]:
    """Lower-case words, Greek letters and numbers with dots; a plural s and British spellings are
    levelled."""
    found = re.findall(r"[a-zα-ω]+\d*|\d+(?:\.\d+)?", text.lower())
    return [SYNONYMS.get(word, _singular(word)) for word in found]


def _singular(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word
