"""The last sections: what was written, and where every number comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from archer.ledger.records import TASKS, RunRecord
from archer.report import numbers
from archer.report.facts import Facts
from archer.report.measured import anchor
from archer.report.tree import (
    Block,
    Bullets,
    Cell,
    Inline,
    Paragraph,
    Row,
    Section,
    Span,
    Table,
    code,
    quoted,
)
from archer.report.wording import Wording, text_cell

RUN_COLUMNS = (
    "run", "rule", "task", "setting", "learning_rate", "weight_decay", "seed", "state", "held_out", "mad",
    "epochs", "wall", "machine",
)  # fmt: skip

Environment = tuple[str, str, tuple[tuple[str, str], ...]]


def files_section(facts: Facts, words: Wording) -> Section:
    """The files that this cycle wrote."""
    files = tuple(dict.fromkeys((*facts.files, *facts.cycle.report_paths)))
    items = tuple(code(path) for path in files)
    return Section(words.text("heading.files"), "files", (Bullets(items, words.inline("files.none")),))


def provenance_section(facts: Facts, words: Wording) -> Section:
    """The cycle, the machines and packages, the sources, and every run."""
    places = _environments(facts.every_run)
    blocks: list[Block] = [_cycle_table(facts, words)]
    if places:
        blocks.append(_environment_table(places, words))
    blocks += [*_citations(facts, words), *_run_table(facts, places, words)]
    return Section(words.text("heading.provenance"), "provenance", tuple(blocks))


def _cycle_table(facts: Facts, words: Wording) -> Table:
    rows = tuple(
        Row((text_cell(words.text(f"provenance.{name}")), Cell(value)))
        for name, value in _cycle_lines(facts, words)
    )
    columns = (words.text("column.what"), words.text("column.value"))
    return Table(words.inline("provenance.cycle_table"), columns, rows)


def _cycle_lines(facts: Facts, words: Wording) -> Iterator[tuple[str, Inline]]:
    cycle, proposal = facts.cycle, facts.proposal
    yield "cycle", code(cycle.id)
    yield "preset", code(cycle.preset)
    yield "seed", code(str(cycle.seed))
    yield "state", (Span(words.text(f"state.{cycle.state}")),)
    yield "started", code(cycle.started_at)
    yield "finished", code(cycle.finished_at) if cycle.finished_at else (Span(words.text("number.none")),)
    wall = numbers.elapsed_seconds(cycle.started_at, cycle.finished_at)
    for name, seconds in (("wall", wall), ("training", cycle.wall_seconds)):
        if seconds is not None:
            yield name, (Span(words.duration(seconds)),)
    if proposal:
        yield "proposal", code(proposal.id)
        yield "researcher", quoted(proposal.researcher)
        yield "created", code(proposal.created_at)
    for name in dict.fromkeys(filter(None, (facts.candidate, facts.parent, facts.reference))):
        if name in facts.rules and facts.rules[name].rule_hash:
            yield "rule_hash", (*code(name), Span(" "), *code(facts.rules[name].rule_hash))
    for name, value in cycle.settings.items():
        written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield "setting", (*code(name), Span(" "), Span(written, quoted=True))


def _environments(runs: Sequence[RunRecord]) -> dict[Environment, str]:
    """Every combination of device, revision and packages, with a letter to call it by."""
    found = dict.fromkeys(_environment(run) for run in runs)
    return {place: _letters(index) for index, place in enumerate(found)}


def _letters(index: int) -> str:
    return (_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _environment(run: RunRecord) -> Environment:
    return run.device, run.revision, tuple(sorted(run.packages.items()))


def _environment_table(places: dict[Environment, str], words: Wording) -> Table:
    rows = tuple(
        Row(
            (
                text_cell(letter),
                Cell(quoted(device)),
                Cell(code(revision)),
                Cell(quoted(", ".join(f"{name} {version}" for name, version in packages))),
            )
        )
        for (device, revision, packages), letter in places.items()
    )
    names = ("machine", "device", "revision", "packages")
    return Table(words.inline("provenance.machines"), tuple(words.text(f"column.{n}") for n in names), rows)


def _citations(facts: Facts, words: Wording) -> Iterator[Block]:
    named = dict.fromkeys(filter(None, (facts.candidate, facts.parent, facts.reference, facts.base)))
    items = tuple(
        (*code(name), Span(" "), *quoted(facts.rules[name].citation))
        for name in named
        if name in facts.rules and facts.rules[name].citation
    )
    if items:
        yield Paragraph(words.inline("provenance.sources"))
        yield Bullets(items)


def _run_table(facts: Facts, places: dict[Environment, str], words: Wording) -> Iterator[Block]:
    if not facts.every_run:
        yield Paragraph(words.inline("provenance.no_runs"))
        return
    runs = sorted(
        facts.every_run,
        key=lambda run: (run.rule, _order(run.task), run.setting, run.seed, run.learning_rate),
    )
    rows, group = [], ""
    for run in runs:
        this = f"runs-{anchor(run.rule)}-{anchor(run.task)}"
        rows.append(_run_row(run, places[_environment(run)], this if this != group else "", words))
        group = this
    columns = tuple(words.text(f"column.{name}") for name in RUN_COLUMNS)
    caption = words.inline("provenance.runs", number=len(rows))
    numeric = (4, 5, 6, 8, 9, 10, 11)
    yield Table(caption, columns, tuple(rows), numeric, folded=len(rows) > 24, compact=True)


def _order(task: str) -> int:
    return TASKS.index(task) if task in TASKS else len(TASKS)


def _run_row(run: RunRecord, letter: str, group: str, words: Wording) -> Row:
    none = words.absent
    cells = (
        Cell((Span(run.key[:10], "code"),)),
        Cell(code(run.rule)),
        text_cell(run.task),
        Cell(quoted(run.setting)),
        text_cell(numbers.rate(run.learning_rate)),
        text_cell(numbers.rate(run.weight_decay)),
        text_cell(str(run.seed)),
        text_cell(words.text(f"status.{run.status}"), "plain" if run.status == "finished" else "worse"),
        text_cell(
            numbers.score(run.held_out, none), "plain" if numbers.is_number(run.held_out) else "missing"
        ),
        text_cell(numbers.score(run.mad, none), "plain" if numbers.is_number(run.mad) else "missing"),
        text_cell(str(run.epochs)),
        text_cell(words.duration(run.wall_seconds)),
        text_cell(letter),
    )
    names = f"run-{run.key[:10]} {group}".strip()
    return Row(cells, anchor=names, new_group=bool(group))
