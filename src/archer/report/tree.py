"""A note as a tree of plain frozen values: what a research note says, before anybody decides how it looks.

    Note → Section → block (Paragraph, Quote, Bullets, Table, Figure, Code, Difference, Lineage) → Span

`markdown` and `html` turn a Note into text; nothing in the tree knows of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["plain", "better", "worse", "same", "undecided", "missing", "warning", "muted"]


@dataclass(frozen=True)
class Span:
    """A piece of running text. target: an anchor of this note ("run-3fa9"), or an address; for links only.

    quoted: words of a person, a model or a program, shown as they came and never translated.
    """

    text: str
    kind: Literal["plain", "strong", "code", "link"] = "plain"
    target: str = ""
    quoted: bool = False


Inline = tuple[Span, ...]


@dataclass(frozen=True)
class Paragraph:
    """Running text; a warning is set apart."""

    text: Inline
    tone: Tone = "plain"


@dataclass(frozen=True)
class Quote:
    """Words of a researcher, as they were given. by: who said it."""

    text: str
    by: str


@dataclass(frozen=True)
class Bullets:
    """A list without order. empty: what stands there if the list has no items."""

    items: tuple[Inline, ...]
    empty: Inline = ()


@dataclass(frozen=True)
class Cell:
    """One cell. heat: from -1 (much worse) to 1 (much better), for cells of a heat map; None elsewhere."""

    text: Inline
    tone: Tone = "plain"
    heat: float | None = None


@dataclass(frozen=True)
class Row:
    """One row; its first cell names it. anchor: names for links, apart by spaces. new_group: a line above."""

    cells: tuple[Cell, ...]
    anchor: str = ""
    new_group: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under column heads. numeric: indices of the columns that are aligned as numbers.

    folded: shown closed in a page, because it is long.
    """

    caption: Inline
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numeric: tuple[int, ...] = ()
    folded: bool = False
    compact: bool = False


@dataclass(frozen=True)
class Panel:
    """One drawing. spec: Vega-Lite with its data. description: the same in words, for who cannot see it."""

    spec: Mapping[str, Any]
    description: str
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """Drawings that belong together, under one caption."""

    anchor: str
    caption: Inline
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Code:
    """A piece of code. first_line: the number of its first line in its file; None for no line numbers."""

    text: str
    caption: Inline
    first_line: int | None = None
    language: str = "python"


@dataclass(frozen=True)
class Difference:
    """Lines of a unified difference, the heads of files left out."""

    lines: tuple[str, ...]
    caption: Inline


@dataclass(frozen=True)
class Ancestor:
    """One rule of a lineage."""

    name: str
    title: str
    equation: str
    rule_hash: str


@dataclass(frozen=True)
class Lineage:
    """From the first rule to the candidate, each the parent of the next."""

    ancestors: tuple[Ancestor, ...]
    caption: Inline


Block = Paragraph | Quote | Bullets | Table | Figure | Code | Difference | Lineage


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it. anchor: unique in its note."""

    heading: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Note:
    """A research note. language: "en" or "zh". lead: what stands above the first section."""

    title: str
    language: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]
    contents: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def blocks(self) -> Iterator[Block]:
        """Every block, in the order of reading."""
        yield from self.lead
        for section in self.sections:
            yield from section.blocks


def plain(text: str) -> Inline:
    """Running text of one piece."""
    return (Span(text),)


def code(text: str) -> Inline:
    """A name, as code."""
    return (Span(text, "code"),)


def quoted(text: str) -> Inline:
    """Words that came from elsewhere, in whatever language."""
    return (Span(text, quoted=True),)


def text_of(inline: Inline) -> str:
    """The words alone."""
    return "".join(span.text for span in inline)
