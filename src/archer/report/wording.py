"""Small pieces of a note: numbers, words and names, in the language of a catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from archer.ledger.records import Comparison, RunRecord, TaskComparison
from archer.report import numbers
from archer.report.language import Catalogue
from archer.report.tree import Cell, Inline, Row, Span, Table, Tone, code, plain

MARKS = {"better": "▲", "worse": "▼", "same": "=", "undecided": "?"}
"""One sign per word, beside the word: nothing is told by colour alone."""

MEAN = "Mean"


@dataclass(frozen=True)
class Wording:
    """A catalogue with the phrases that every section needs."""

    catalogue: Catalogue

    @property
    def absent(self) -> str:
        """What stands where there is no number."""
        return self.catalogue.text("number.absent")

    def text(self, key: str, **values: object) -> str:
        """Plain words."""
        return self.catalogue.text(key, **values)

    def inline(self, key: str, **values: object) -> Inline:
        """Running text."""
        return self.catalogue.inline(key, **values)

    def word(self, word: str) -> str:
        """ "better" with its sign, in the note's language."""
        return f"{MARKS[word]} {self.text(f'word.{word}')}"

    def task(self, name: str) -> str:
        """A task's display name; only the mean is translated."""
        return self.text("task.mean") if name == MEAN else name

    def tasks(self, names: Iterable[str]) -> str:
        """Names in a row: A, B and C."""
        return self.catalogue.joined([self.task(name) for name in names])

    def codes(self, names: Sequence[str]) -> Inline:
        """Names of rules in a row, as code."""
        spans: list[Span] = []
        for index, name in enumerate(names):
            if index:
                spans.append(Span(self.text("join.comma")))
            spans.append(Span(name, "code"))
        return tuple(spans)

    def score(self, value: float | None) -> str:
        """Three decimals, or "no score"."""
        return numbers.score(value, self.absent)

    def duration(self, seconds: float | None) -> str:
        """33 s, 8.4 min, 1.6 h; or that there was none."""
        units = [self.text(f"unit.{name}") for name in ("second", "minute", "hour")]
        return numbers.duration(seconds, self.text("number.none"), units)

    def expected(self, middle: float | None, low: float | None, high: float | None) -> str:
        """A predicted score with its interval: 0.442 [0.382, 0.502]."""
        ends = numbers.interval(low, high, self.text("number.no_interval"), sign=False)
        return f"{self.score(middle)} {ends}"

    def difference(self, line: TaskComparison) -> str:
        """+0.012 [−0.003, +0.027]; without an interval it says that there is none."""
        if line.difference is None:
            return self.absent
        ends = numbers.interval(line.low, line.high, self.text("number.no_interval"))
        return f"{numbers.signed(line.difference, self.absent)} {ends}"

    def word_cell(self, line: TaskComparison) -> Cell:
        """The verdict on one task, as a cell."""
        tone: Tone = "missing" if line.difference is None else line.word
        return Cell(plain(self.word(line.word)), tone)


def name_cell(name: str) -> Cell:
    """A rule's name at the head of a row."""
    return Cell(code(name))


def text_cell(text: str, tone: Tone = "plain") -> Cell:
    """A cell of plain words."""
    return Cell(plain(text), tone)


def score_cell(words: Wording, value: float | None) -> Cell:
    """A score, or "no score"."""
    return text_cell(words.score(value), "plain" if numbers.is_number(value) else "missing")


def lines_of(comparison: Comparison) -> tuple[TaskComparison, ...]:
    """The six tasks, and the mean last."""
    return (*comparison.tasks, comparison.mean)


def unfinished(runs: Iterable[RunRecord], rule: str, task: str) -> dict[str, int]:
    """How many runs of a rule on a task diverged, crashed, or finished without a score."""
    found: dict[str, int] = {}
    for run in runs:
        if run.rule != rule or task not in (run.task, MEAN):
            continue
        if run.status != "finished":
            found[run.status] = found.get(run.status, 0) + 1
        elif not numbers.is_number(run.held_out) and not numbers.is_number(run.mad):
            found["scoreless"] = found.get("scoreless", 0) + 1
    return found


def counts(words: Wording, found: dict[str, int]) -> str:
    """2 runs diverged, 1 run crashed."""
    return words.text("join.comma").join(
        words.catalogue.count(f"runs.{status}", number) for status, number in found.items()
    )


def simple_table(
    caption: Inline, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()
) -> Table:
    """A table of plain words."""
    return Table(
        caption,
        tuple(columns),
        tuple(Row(tuple(text_cell(cell) for cell in row)) for row in rows),
        tuple(numeric),
    )
