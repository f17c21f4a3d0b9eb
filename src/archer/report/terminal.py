"""The table at the end of a cycle, in the terminal: every rule on six tasks, at a glance.

Under each score stand its difference to the reference, with the sign of its verdict, and the 95% interval.
It fits 80 columns; from WIDE columns on an interval stands on one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from archer.ledger.records import TASKS, Comparison, TaskComparison
from archer.report import numbers
from archer.report.cost_section import COLUMNS, cost_cells, machines
from archer.report.costs import RuleCost
from archer.report.decisions import decision_sentences
from archer.report.facts import Facts
from archer.report.language import catalogue
from archer.report.measured import summary_sentence
from archer.report.tree import text_of
from archer.report.wording import MARKS, MEAN, Wording, counts, lines_of, unfinished

WIDE = 144
ROOMY = 92
NAME_WIDTH = 15
"""What 80 columns leave for a rule's name beside seven columns of numbers; gated_delta_net just fits."""
LONGEST_NAME = 40
NUMBERS_WIDTH, WIDE_NUMBERS_WIDTH = 80, 128
"""What the numbers take at most where the terminal is ROOMY, and where it is WIDE."""
STYLES = {
    "better": "bold cyan",
    "worse": "bold dark_orange",
    "same": "bright_black",
    "undecided": "magenta",
}


def final_table(facts: Facts, language: str = "en", paths: Sequence[object] = ()) -> RenderableType:
    """The measured rules, their differences to the reference and to the parent, and what a reader must know.

    paths: where the report was written. Print it with `console.print(final_table(...))`.
    """
    return _FinalTable(facts, Wording(catalogue(language)), tuple(str(path) for path in paths))


@dataclass(frozen=True)
class _FinalTable:
    facts: Facts
    words: Wording
    paths: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Group(
            *self._warning(),
            self._table(options.max_width),
            *self._notes(options.max_width),
            *self._costs(options.max_width),
            *self._paths(),
        )

    def _warning(self) -> list[RenderableType]:
        if self.facts.may_rank:
            return []
        text = self.words.text("terminal.ranks_nothing", preset=self.facts.cycle.preset)
        return [Padding(Text(f"! {text}", style="bold yellow"), (0, 0, 1, 0))]

    def _table(self, width: int) -> RenderableType:
        wide, roomy, names = width >= WIDE, width >= ROOMY, name_width(width)
        comparisons = self.facts.all_comparisons()
        if not comparisons:
            return Text(self.words.text("terminal.no_comparison"))
        title = self.words.text(
            "terminal.title", reference=self.facts.compared_with, preset=self.facts.cycle.preset
        )
        table = Table(
            box=box.SIMPLE_HEAD,
            title=title,
            title_justify="left",
            title_style="bold",
            padding=(0, 1 if roomy else 0, 0, 0),
            show_edge=False,
            pad_edge=False,
        )
        table.add_column(self.words.text("column.rule"), no_wrap=True)
        for task in (*TASKS, MEAN):
            table.add_column(Text(_heading(self.words.task(task), wide)), justify="right", no_wrap=True)
        for rule, scores in self.facts.measured().items():
            against = [line for line in comparisons if _pair(line) == (rule, self.facts.compared_with)]
            others = [
                c for c in comparisons if c.candidate == rule and c.baseline != self.facts.compared_with
            ]
            head = Text(numbers.folded(rule, names), style="bold" if rule == self.facts.candidate else "")
            table.add_row(head, *self._score_cells(rule, scores, against, wide))
            for comparison in others:
                label = self.words.text("terminal.minus_parent", parent=comparison.baseline)
                cells = [self._difference(line, wide) for line in lines_of(comparison)]
                table.add_row(Text(numbers.folded(label, names), style="dim"), *cells)
        return table

    def _score_cells(
        self, rule: str, scores: dict[str, float | None], against: Sequence[Comparison], wide: bool
    ) -> list[Text]:
        lines = {line.task: line for comparison in against for line in lines_of(comparison)}
        cells = []
        for task in (*TASKS, MEAN):
            score = scores.get(task)
            cell = Text(self.words.score(score), style="" if numbers.is_number(score) else "italic")
            if task in lines:
                cell.append("\n").append_text(self._difference(lines[task], wide))
            if not numbers.is_number(score) and task != MEAN:
                cell.append("".join(f"\n{numbers.folded(part, 9)}" for part in self._reasons(rule, task)))
            cells.append(cell)
        return cells

    def _reasons(self, rule: str, task: str) -> list[str]:
        """Why there is no score: 18 runs diverged."""
        found = unfinished(self.facts.runs, rule, task)
        return [counts(self.words, {status: number}) for status, number in found.items()]

    def _difference(self, line: TaskComparison, wide: bool) -> Text:
        if line.difference is None and not self.facts.may_rank:
            return Text(self.words.text("number.none"), style="dim")
        if line.difference is None:
            return Text(f"{MARKS[line.word]} {self.words.text('number.none')}", style=STYLES[line.word])
        mark, style = (f"{MARKS[line.word]} ", STYLES[line.word]) if self.facts.may_rank else ("", "dim")
        text = Text(f"{mark}{numbers.signed(line.difference, '')}", style=style)
        if numbers.is_number(line.low) and numbers.is_number(line.high):
            low, high = numbers.signed(line.low, ""), numbers.signed(line.high, "")
            text.append(f"\n[{low}, {high}]" if wide else f"\n{low}\n{high}", style="not bold dim")
        return text

    def _notes(self, width: int) -> list[RenderableType]:
        lines = [Text("")]
        if self.facts.may_rank:
            lines += [Text(self.words.text("terminal.legend"), style="dim"), Text("")]
            lines += [Text(text_of(summary_sentence(c, self.words))) for c in self.facts.all_comparisons()]
        elif self.facts.all_comparisons():
            legend = self.words.text("terminal.not_judged", reference=self.facts.compared_with)
            lines.append(Text(legend, style="dim"))
        lines += [Text(line, style="dim") for line in self._decisions()]
        if self.facts.floors:
            none = self.words.text("number.unknown")
            known = [f"{task} {numbers.score(self.facts.floors.get(task), none)}" for task in TASKS]
            packed = pack([f"{self.words.text('terminal.noise')}:", *known], width)
            lines.append(Text(packed, style="dim"))
        lost = self._lost()
        if lost:
            lines.append(Text(f"{self.words.text('terminal.lost')}: {lost}", style="yellow"))
        return list(lines)

    def _decisions(self) -> list[str]:
        """Looks that were taken, the method of each, and what fresh seeds said of a win."""
        comparisons = self.facts.all_comparisons()
        said = [text_of(one) for c in comparisons for one in decision_sentences(c, self.facts, self.words)]
        methods = dict.fromkeys(c.method for c in comparisons if c.looks and c.method)
        return [*said, *(self.words.text("looks.method", method=method) for method in methods)]

    def _costs(self, width: int) -> list[RenderableType]:
        costs = {rule: self.facts.costs[rule] for rule in self.facts.measured() if rule in self.facts.costs}
        return [Text(""), cost_grid(costs, width, self.words), Text("")] if costs else []

    def _paths(self) -> list[RenderableType]:
        label = self.words.text("terminal.report")
        return [Text(f"{label}: {path}", overflow="fold") for path in self.paths]

    def _lost(self) -> str:
        parts = []
        for rule in dict.fromkeys(run.rule for run in self.facts.runs):
            found = unfinished(self.facts.runs, rule, MEAN)
            if found:
                parts.append(f"{rule} ({counts(self.words, found)})")
        return self.words.text("join.comma").join(parts)


def cost_grid(costs: Mapping[str, RuleCost], width: int, words: Wording) -> RenderableType:
    """What rules cost, a line each, and where the speeds were measured; for commands that show scores."""
    title = words.text("terminal.cost")
    grid = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        padding=(0, 2 if width >= ROOMY else 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    grid.add_column(words.text("column.rule"), no_wrap=True)
    for name in COLUMNS:
        grid.add_column(words.text(f"terminal.{name}"), justify="right")
    for rule, cost in costs.items():
        grid.add_row(
            numbers.folded(rule, max(24, name_width(width)) if width >= ROOMY else NAME_WIDTH),
            *cost_cells(cost, words),
        )
    sized = next((cost.sized_on for cost in costs.values() if cost.sized_on), None)
    said = [words.text("cost.sized", task=words.task(sized))] if sized else []
    key, where = machines(costs, words)
    said.append(words.text(key, **where))
    return Group(grid, Text(" ".join(said), style="dim"))


def name_width(width: int) -> int:
    """Columns for a rule's name beside the numbers of a terminal so wide."""
    taken = WIDE_NUMBERS_WIDTH if width >= WIDE else NUMBERS_WIDTH
    return max(NAME_WIDTH, min(LONGEST_NAME, width - taken))


def pack(pieces: Sequence[str], width: int) -> str:
    """The pieces on as few lines as hold them, none of them broken."""
    lines = [""]
    for piece in pieces:
        longer = f"{lines[-1]}  {piece}" if lines[-1] else piece
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(piece)
    return "\n".join(lines)


def _heading(task: str, wide: bool) -> str:
    return task if wide else task.replace(" ", "\n")


def _pair(comparison: Comparison) -> tuple[str, str]:
    return comparison.candidate, comparison.baseline
