"""A note as GitHub-flavoured Markdown that also reads well as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from archer.report.tree import (
    Block,
    Bullets,
    Cell,
    Code,
    Difference,
    Figure,
    Inline,
    Lineage,
    Note,
    Paragraph,
    Quote,
    Section,
    Span,
    Table,
)

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")
_INTERVAL = re.compile(r"\\\[([-+−\d%,. ]+)\\\](?!\\?[(\[])")
_WORD_UNDERSCORE = re.compile(r"(?<=\w)\\_(?=\w)")


def to_markdown(note: Note, page: str = "") -> str:
    """The whole note. page: the name of the HTML page beside it, which has the drawings; "" for none."""
    parts = [f"# {escape(note.title)}"]
    parts += [_block(block, note, page) for block in note.lead]
    for section in note.sections:
        parts.append(_section(section, note, page))
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, note: Note, page: str) -> str:
    return "\n\n".join(
        [f"## {escape(section.heading)}", *(_block(block, note, page) for block in section.blocks)]
    )


def _block(block: Block, note: Note, page: str) -> str:
    match block:
        case Paragraph():
            return f"> {inline(block.text)}" if block.tone == "warning" else inline(block.text)
        case Quote():
            head = escape(note.labels["quote"].format(by=block.by))
            return "\n".join(
                [f"{head}:", "", *(f"> {escape(line)}".rstrip() for line in block.text.splitlines())]
            )
        case Bullets():
            return "\n".join(f"- {inline(item)}" for item in block.items) or inline(block.empty)
        case Table():
            return _table(block)
        case Figure():
            return _figure(block, note, page)
        case Code():
            return _fenced(
                _numbered(block), block.language if block.first_line is None else "", block.caption
            )
        case Difference():
            return _fenced("\n".join(block.lines).rstrip("\n"), "diff", block.caption)
        case Lineage():
            return _lineage(block)


def escape(text: str) -> str:
    """Text that shows as itself; underscores inside words and brackets of intervals need no escape."""
    one_line = " ".join(text.split())
    escaped = _WORD_UNDERSCORE.sub("_", _SPECIAL.sub(r"\\\1", one_line))
    return _INTERVAL.sub(r"[\1]", escaped).replace("\\< ", "< ")


def inline(spans: Inline) -> str:
    """Running text."""
    return "".join(_span(span) for span in spans).strip()


def _span(span: Span) -> str:
    match span.kind:
        case "code":
            return _code(span.text)
        case "strong":
            return f"**{escape(span.text)}**"
        case "link":
            target = span.target if "://" in span.target else f"#{span.target}"
            return f"[{escape(span.text)}]({target})"
        case _:
            lead = " " if span.text[:1].isspace() else ""
            tail = " " if span.text[-1:].isspace() and span.text.strip() else ""
            return f"{lead}{escape(span.text)}{tail}"


def _code(text: str) -> str:
    flat = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall(r"`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}" if flat else ""


def _table(table: Table) -> str:
    rules = ["---:" if index in table.numeric else "---" for index in range(len(table.columns))]
    lines = [
        f"**{inline(_without_strong(table.caption))}**",
        "",
        _row(escape(column) for column in table.columns),
        _row(rules),
    ]
    for row in table.rows:
        cells = [_cell(cell) for cell in row.cells]
        cells[0] = "".join(f'<a id="{name}"></a>' for name in row.anchor.split()) + cells[0]
        lines.append(_row(cells))
    return "\n".join(lines)


def _without_strong(spans: Inline) -> Inline:
    return tuple(Span(span.text, "plain") if span.kind == "strong" else span for span in spans)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    return inline(tuple(_without_bars(span) for span in cell.text))


def _without_bars(span: Span) -> Span:
    """In a table a bar ends the cell even inside code; GitHub reads an escaped one there as a bar."""
    return replace(span, text=span.text.replace("|", "\\|")) if span.kind == "code" else span


def _figure(figure: Figure, note: Note, page: str) -> str:
    lines = [f"*{note.labels['figure']}: {inline(_without_strong(figure.caption))}*"]
    lines += [f"- {escape(panel.description)}" for panel in figure.panels]
    if page:
        lines.append(f"- [{escape(note.labels['see_page'])}]({page}#{figure.anchor})")
    return "\n".join([lines[0], "", *lines[1:]])


def _numbered(code: Code) -> str:
    if code.first_line is None:
        return code.text
    lines = code.text.splitlines()
    width = len(str(code.first_line + len(lines) - 1))
    return "\n".join(
        f"{code.first_line + index:>{width}}  {line}".rstrip() for index, line in enumerate(lines)
    )


def _fenced(text: str, language: str, caption: Inline) -> str:
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{inline(caption)}:\n\n{fence}{language}\n{text}\n{fence}"


def _lineage(block: Lineage) -> str:
    lines = [f"{inline(block.caption)}:", ""]
    for index, rule in enumerate(block.ancestors, start=1):
        equation = "; ".join(line.strip() for line in rule.equation.splitlines() if line.strip())
        shown = f": {_code(equation)}" if equation else ""
        lines.append(f"{index}. {_code(rule.name)}{shown}")
    return "\n".join(lines)
