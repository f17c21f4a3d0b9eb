"""The two files: whole, self-contained, small, linked within themselves; and the page makes no request."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from tests.report import example

from archer.report import writing
from archer.report.html import to_html
from archer.report.markdown import escape, to_markdown
from archer.report.note import build
from archer.report.svg import embed
from archer.report.tree import Bullets, Note, Paragraph, Quote, Row, Section, Span, Table, plain
from archer.report.wording import text_cell

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def note() -> Note:
    return build(example.facts("smoke", ranks=False))


@pytest.fixture(scope="module")
def page(note) -> str:
    return to_html(note)


class Reader(HTMLParser):
    """Collects what the tests ask about, and whether every element is closed in order."""

    VOID = ("meta", "link", "br", "wbr", "path", "line", "circle", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if found.get("id") else []
        self.targets += [found["href"][1:]] if (found.get("href") or "").startswith("#") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_the_page_is_well_formed_and_every_link_arrives(page):
    reader = read(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.targets
    assert set(reader.targets) <= set(reader.ids)


def test_every_link_of_the_markdown_arrives_except_to_the_page(note):
    text = to_markdown(note)
    targets = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert targets
    assert targets <= set(re.findall(r'<a id="([^"]+)">', text))


def test_tables_are_accessible(page):
    reader = read(page)
    tables = page.count("<table")
    assert tables > 8
    assert page.count("<caption>") == tables
    scopes = [found.get("scope") for tag, found in reader.tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    assert all(found.get("aria-label") for tag, found in reader.tags if tag == "svg")
    assert all(found.get("role") == "img" for tag, found in reader.tags if tag == "svg")


def test_the_page_loads_nothing(page):
    for tag, found in read(page).tags:
        assert tag not in ("script", "iframe", "img", "object", "embed", "video", "audio")
        for name in ("src", "srcset", "href", "xlink:href", "data", "action"):
            value = found.get(name) or ""
            assert not value or value.startswith("#") or value == "data:,"
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_is_small_even_with_thousands_of_runs(note, page):
    assert len(page.encode()) < 400_000
    runs = example.facts().runs
    many = tuple(replace(run, key=f"{copy:04d}{run.key}") for copy in range(8) for run in runs)
    sections = build(replace(example.facts(), runs=many)).sections[-1:]
    assert len(many) > 2500
    assert len(to_html(replace(note, sections=sections)).encode()) < 700_000


def test_light_and_dark(page):
    assert "prefers-color-scheme: dark" in page
    style = page[page.index("<style>") : page.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark", 1)
    names = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert names <= set(re.findall(r"(--[\w-]+):", light))
    assert names <= set(re.findall(r"(--[\w-]+):", dark.split("* {")[0]))


def test_drawings_keep_their_numbers_whole():
    """Shortening coordinates must not shorten a label."""
    text = '<text transform="translate(1.23456,2)">+0.2213</text>'
    svg = f'<svg class="marks" width="10" height="20" viewBox="0 0 10 20">{text}</svg>'
    drawn = embed(svg, 'a "b"')
    assert drawn.startswith('<svg viewBox="0 0 10 20" role="img" aria-label="a &quot;b&quot;">')
    assert 'transform="translate(1.23,2)"' in drawn
    assert ">+0.2213<" in drawn


def hostile() -> Note:
    text = "<script>alert(1)</script> | a*b_c `d` [x](http://example.org) & more"
    row = Row((text_cell(text), text_cell(text)))
    blocks = (
        Paragraph(plain(text)),
        Paragraph((Span(text, "code"), Span(text, "strong"))),
        Quote(text, text),
        Bullets((plain(text),)),
        Table(plain(text), ("a", text), (row,)),
    )
    return Note(text, "en", blocks, (Section(text, "x", blocks),), "Contents", {"quote": "By {by}"})


def test_what_others_wrote_is_text_and_never_markup():
    page = to_html(hostile())
    assert "<script" not in page
    assert read(page).open == []


def test_what_others_wrote_is_text_in_markdown_too():
    """Read back by a Markdown parser that allows HTML: no element, no link, all columns in place."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(to_markdown(hostile()))
    assert "<script" not in html
    assert "href" not in html
    assert html.count("<td") == html.count("<th>") == 4  # two tables of two columns
    assert html.count("alert(1)") == 2 + 2 * 10  # title and heading, and ten times in each list of blocks


def test_rule_names_stay_readable_in_markdown():
    assert escape("gated_delta_net") == "gated_delta_net"
    assert escape("+0.1 [−0.2, +0.3], 95% [90%]") == "+0.1 [−0.2, +0.3], 95% [90%]"
    assert escape("[1](x) [2][3]") == "\\[1\\](x) \\[2\\][3]"
    assert escape("_x_ *y* <z>") == "\\_x\\_ \\*y\\* \\<z\\>"


def test_writing_makes_both_files(tmp_path):
    note = hostile()
    text_path, page_path = writing.write(note, tmp_path / "new" / "folder")
    assert page_path.read_text(encoding="utf-8") == to_html(note)
    assert text_path.read_text(encoding="utf-8") == to_markdown(note, "report.html")
    assert sorted(path.name for path in text_path.parent.iterdir()) == ["report.html", "report.md"]
    names = [path.name for path in writing.write(replace(note, language="zh"), tmp_path, "cycle")]
    assert names == ["cycle.zh.md", "cycle.zh.html"]


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writing.write(hostile(), tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == "old"


def requested(page: Path, folder: Path) -> set[str]:
    """The addresses that a page asks Chromium for, from the browser's network log.

    What the browser asks for itself (it has no initiating page) is left out, and no name is resolved.
    """
    log = folder / "network.json"
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "</html>" in shown.stdout, shown.stderr[-2000:]
    found = json.loads(log.read_text(encoding="utf-8"))
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event["params"] for event in found["events"] if event["type"] == start and "params" in event]
    return {params["url"] for params in asked if "url" in params and params["initiator"] != "not an origin"}


needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)
LEAK = "http://127.0.0.1:9/x.png"


def leaking(page: str) -> str:
    return page.replace("<main>", f'<main><img src="{LEAK}">')


@needs_chromium
def test_a_real_browser_makes_no_request(tmp_path, page):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    assert {url for url in requested(path, tmp_path) if not url.startswith(("file:", "data:"))} == set()


@needs_chromium
def test_the_page_forbids_itself_what_would_be_a_mistake(tmp_path, page):
    """The same mistake is seen without the policy, and stopped by it."""
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    path = tmp_path / "leaking.html"
    path.write_text(re.sub(r"<meta http-equiv[^>]*>", "", leaking(page)), encoding="utf-8")
    assert LEAK in requested(path, tmp_path / "without")
    path.write_text(leaking(page), encoding="utf-8")
    assert LEAK not in requested(path, tmp_path / "with")
