"""A note as one HTML page that needs nothing beside itself: styles, drawings and all, and no script.

The page forbids itself every request (Content-Security-Policy), so a mistake here cannot become one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from archer.report.svg import draw
from archer.report.tree import (
    Ancestor,
    Block,
    Bullets,
    Cell,
    Code,
    Difference,
    Figure,
    Inline,
    Lineage,
    Note,
    Panel,
    Paragraph,
    Quote,
    Row,
    Section,
    Span,
    Table,
    text_of,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LANGUAGE_TAGS = {"en": "en", "zh": "zh-Hans"}


def to_html(note: Note) -> str:
    """The whole page."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    lead = "\n".join(_block(block, note) for block in note.lead)
    body = "\n".join(_section(section, note) for section in note.sections)
    return f"""<!doctype html>
<html lang="{LANGUAGE_TAGS[note.language]}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Archer">
<link rel="icon" href="data:,">
<title>{escape(note.title)}</title>
<style>
{style}{_alignment()}
</style>
</head>
<body>
<header>
<h1>{escape(note.title)}</h1>
<div class="lead">
{lead}
</div>
</header>
{_contents(note)}
<main>
{body}
</main>
</body>
</html>
"""


def _contents(note: Note) -> str:
    items = "".join(
        f'<li><a href="#{escape(section.anchor)}">{escape(section.heading)}</a></li>'
        for section in note.sections
    )
    return f'<nav aria-label="{escape(note.contents)}"><h2>{escape(note.contents)}</h2><ol>{items}</ol></nav>'


def _section(section: Section, note: Note) -> str:
    blocks = "\n".join(_block(block, note) for block in section.blocks)
    return (
        f'<section id="{escape(section.anchor)}">\n<h2>{escape(section.heading)}</h2>\n{blocks}\n</section>'
    )


def _block(block: Block, note: Note) -> str:
    match block:
        case Paragraph():
            tone = "" if block.tone == "plain" else f' class="{block.tone}"'
            return f"<p{tone}>{inline(block.text)}</p>"
        case Quote():
            return _quote(block, note)
        case Bullets():
            items = "".join(f"<li>{inline(item)}</li>" for item in block.items)
            return f"<ul>{items}</ul>" if items else f'<p class="muted">{inline(block.empty)}</p>'
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Code():
            return _code(block)
        case Difference():
            return _difference(block, note)
        case Lineage():
            return _lineage(block)


def inline(spans: Inline) -> str:
    """Running text."""
    return "".join(_span(span) for span in spans)


def _span(span: Span) -> str:
    text = escape(span.text)
    match span.kind:
        case "code":
            return f"<code>{_breakable(span.text)}</code>" if text else ""
        case "strong":
            return f"<strong>{text}</strong>"
        case "link":
            target = span.target if "://" in span.target else f"#{span.target}"
            return f'<a href="{escape(target)}">{text}</a>'
        case _:
            return text


def _breakable(name: str) -> str:
    """A name that a narrow column may break after its underscores."""
    return escape(name).replace("_", "_<wbr>")


def _quote(quote: Quote, note: Note) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in quote.text.splitlines() if line.strip())
    source = escape(note.labels["quote"].format(by=quote.by))
    return f"<figure class=quote><figcaption>{source}</figcaption><blockquote>{lines}</blockquote></figure>"


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{_breakable(column)}</th>' for column in table.columns)
    rows = "\n".join(_row(row) for row in table.rows)
    caption = inline(table.caption)
    shown = f"<caption><span>{caption}</span></caption>"
    name = escape(text_of(table.caption))
    frame = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
    body = (
        f'{frame}<table class="{_kind(table)}">{shown}\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )
    return f"<details><summary>{caption}</summary>\n{body}</details>" if table.folded else body


def _kind(table: Table) -> str:
    """The classes of a table: c4 aligns its fourth column as numbers, once for all rows."""
    names = [f"c{index + 1}" for index in table.numeric]
    if len(table.columns) - 1 not in table.numeric:
        names.append("wordy")
    return " ".join([*names, *(["compact"] if table.compact else [])])


def _alignment() -> str:
    """What c1 to c14 mean."""
    cells = ",".join(f".c{index} tr>:nth-child({index})" for index in range(1, 15))
    return f"{cells}{{text-align:right;white-space:nowrap}}"


def _row(row: Row) -> str:
    names = row.anchor.split()
    attributes = f" id={names[0]}" if names else ""
    attributes += " class=g" if row.new_group else ""
    targets = "".join(f"<a id={name}></a>" for name in names[1:])
    cells = "".join(_cell(cell, index, targets) for index, cell in enumerate(row.cells))
    return f"<tr{attributes}>{cells}</tr>"


def _cell(cell: Cell, index: int, targets: str) -> str:
    style = ""
    if cell.heat is not None and abs(cell.heat) >= 0.01:
        side = "better" if cell.heat > 0 else "worse"
        style = f' style="background:color-mix(in srgb,var(--{side}) {abs(cell.heat) * 55:.0f}%,transparent)"'
    marked = f" class={cell.tone}" if cell.tone != "plain" else ""
    if index == 0:
        return f"<th scope=row{marked}{style}>{targets}{inline(cell.text)}</th>"
    return f"<td{marked}{style}>{inline(cell.text)}</td>"


def _figure(figure: Figure) -> str:
    panels = "\n".join(_panel(panel) for panel in figure.panels)
    caption = f"<figcaption>{inline(figure.caption)}</figcaption>"
    name = escape(figure.anchor)
    return f'<figure id="{name}" class="drawing"><div class="panels">\n{panels}\n</div>{caption}</figure>'


def _panel(panel: Panel) -> str:
    title = f"<h3>{escape(panel.title)}</h3>" if panel.title else ""
    return f'<div class="panel">{title}{draw(panel.spec, panel.description)}</div>'


def _code(code: Code) -> str:
    lines = code.text.splitlines() or [""]
    if code.first_line is None:
        body = escape("\n".join(lines))
    else:
        width = len(str(code.first_line + len(lines) - 1))
        body = "\n".join(
            f"<i>{code.first_line + index:>{width}}</i>  {escape(line)}" for index, line in enumerate(lines)
        )
    return _captioned(body, code.caption, "code")


def _difference(block: Difference, note: Note) -> str:
    names = {"+": ("ins", note.labels["added"]), "-": ("del", note.labels["removed"])}
    lines = []
    for line in block.lines:
        mark, label = names.get(line[:1], ("", ""))
        text = escape(line)
        lines.append(f'<{mark} aria-label="{escape(label)}">{text}</{mark}>' if mark else text)
    while lines and not lines[-1]:
        lines.pop()
    return _captioned("\n".join(lines), block.caption, "code diff")


def _captioned(body: str, caption: Inline, kind: str) -> str:
    name = escape(text_of(caption))
    return (
        f'<figure class="{kind}"><figcaption>{inline(caption)}</figcaption>'
        f'<pre tabindex="0" role="region" aria-label="{name}"><code>{body}</code></pre></figure>'
    )


def _lineage(block: Lineage) -> str:
    items = _joined(block.ancestors)
    return (
        f'<figure class="lineage"><figcaption>{inline(block.caption)}</figcaption><ol>{items}</ol></figure>'
    )


def _joined(ancestors: Sequence[Ancestor]) -> str:
    return "".join(_ancestor(rule) for rule in ancestors)


def _ancestor(rule: Ancestor) -> str:
    parts: Iterable[str] = (
        f"<code class=name>{escape(rule.name)}</code>",
        f"<span lang=en>{escape(rule.title)}</span>" if rule.title else "",
        f"<pre>{escape(rule.equation)}</pre>" if rule.equation else "",
        f"<small><code>{escape(rule.rule_hash)}</code></small>" if rule.rule_hash else "",
    )
    return f"<li>{''.join(parts)}</li>"
