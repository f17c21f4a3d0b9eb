"""`archer history`: what the tables of earlier trials really say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_json, results
from archer.cli.shared import (
    ABSENT,
    ROOMY,
    JsonOption,
    add_task_columns,
    folded,
    plain_table,
    titled,
)
from archer.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from archer.judge.history import Analysis, HistoryDifference, Rejudged
    from archer.ledger import HistoryTable

MARKS = {"beyond noise": "*", "one function": "=", "within noise": "~", "no noise estimate": "?"}
"""What stands behind a difference."""

LEGEND = (
    "* beyond the noise   = the same function, no difference possible   ~ within the noise   "
    "? nothing was repeated: the noise is not known"
)


def command(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A table of your own, instead of the built-in ones."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="MODEL", help="The model of FILE that the others are changes of."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What the tables of earlier trials really say.

    Which differences exceed the noise, which cannot be differences at all, which tables never mix.

    A table is read as CSV or aligned by spaces: the model's name, then the six tasks.

    \b
    Examples: archer history
              archer history my_trials.csv --baseline delta_net --json
    """
    shown, judged, analyses = _judge(file, baseline)
    if as_json:
        print_json(_values(shown, judged, analyses))
        return
    console = results()
    for table in shown:
        console.print(_scores(table, judged, console.width), "")
    console.print(f"{LEGEND}\n", style="dim", markup=False)
    for analysis in analyses:
        console.print(_standings(analysis, console.width), "")
    for line in _conclusions(shown, judged):
        console.print(line, markup=False)


def _judge(
    file: Path | None, baseline: str | None
) -> tuple[tuple[HistoryTable, ...], Rejudged, tuple[Analysis, ...]]:
    """The tables to show, the judgement (beside the built-in tables where it can be), and the analyses."""
    from archer.judge import rejudge_history
    from archer.judge.history import BASELINE
    from archer.judge.reach import history_same_function
    from archer.ledger import builtin_history

    built_in, base = builtin_history(), baseline or BASELINE
    if file is None:
        if baseline is not None:
            raise UserError("--baseline is for a table of your own: archer history FILE --baseline MODEL")
        shown = together = built_in
    else:
        shown, base = _own_table(file, baseline)
        together = (*built_in, *shown) if base == BASELINE else shown
    same = history_same_function()
    judged = rejudge_history(together, _same_as(same, base), baseline=base)
    first = {group[0] for group in judged.groups} if file is None else {table.name for table in shown}
    analyses = (_analysis(table, base) for table in shown if table.name in first)
    return shown, judged, tuple(found for found in analyses if found is not None)


def _own_table(file: Path, baseline: str | None) -> tuple[tuple[HistoryTable, ...], str]:
    """A person's table and its baseline: the model named, or the one that means delta_net.

    It goes by its whole file name, so that a copy of a built-in table is told from it.
    """
    from archer.judge.history import BASELINE
    from archer.ledger import read_table
    from archer.rules import BASE, resolve_history_name

    table = read_table(file)
    models = [row.model for row in table.rows]
    plain = [model for model in models if resolve_history_name(model) == BASE]
    chosen = baseline or next(iter(plain), BASELINE)
    if chosen not in models:
        problem = unknown(f"model in {file}", chosen, models)
        raise UserError(f"{problem}. Name the model that the others are changes of with --baseline")
    return (replace(table, name=file.name),), chosen


def _same_as(same: Any, baseline: str) -> Any:
    """What is known of reach is known against delta_net: of another baseline nothing is claimed."""
    from archer.rules import BASE, resolve_history_name

    return same if resolve_history_name(baseline) == BASE else lambda model, task: None


def _analysis(table: HistoryTable, baseline: str) -> Analysis | None:
    """None for a table without the reference."""
    from archer.judge import analyse
    from archer.judge.history import REFERENCE
    from archer.judge.reach import history_same_function
    from archer.rules import REFERENCE as RULE
    from archer.rules import resolve_history_name, rule_names

    names = [row.model for row in table.rows]
    reference = next(
        (name for name in names if name == REFERENCE or resolve_history_name(name) == RULE), None
    )
    if reference is None or reference == baseline:
        return None
    return analyse(
        table, reference, baseline, known_rules=rule_names(), resolve=resolve_history_name,
        same_function=_same_as(history_same_function(), baseline),
    )  # fmt: skip


def _values(shown: Sequence[HistoryTable], judged: Rejudged, analyses: Sequence[Analysis]) -> dict[str, Any]:
    from archer.rules import resolve_history_name

    names = {table.name for table in shown}
    return {
        "tables": [
            {
                "name": table.name,
                "notes": table.notes,
                "rows": [
                    {"model": row.model, "rule": resolve_history_name(row.model), "scores": row.scores}
                    for row in table.rows
                ],
            }
            for table in shown
        ],
        "differences": [asdict(found) for found in judged.differences if found.table in names],
        "noise": {
            group: {task: asdict(floor) for task, floor in floors.items()}
            for group, floors in judged.noise.items()
        },
        "groups": judged.groups,
        "conflicts": [asdict(conflict) for conflict in judged.conflicts if names & {*conflict.tables}],
        "contradicted": judged.contradicted,
        "analyses": [asdict(analysis) for analysis in analyses],
    }


# Tables


def _scores(table: HistoryTable, judged: Rejudged, width: int) -> RenderableType:
    """One row per model: its scores, and under them the differences to the baseline with their marks."""
    from archer.ledger.records import TASKS
    from archer.report.numbers import signed

    found = {(one.model, one.task): one for one in judged.differences if one.table == table.name}
    grid = plain_table(width, many=True)
    grid.add_column("Rule", no_wrap=True)
    add_task_columns(grid, (*TASKS, "Mean"), width)
    base = next((row for row in table.rows if (row.model, TASKS[0]) not in found), table.rows[0])
    for row in sorted(table.rows, key=lambda row: row is not base):
        cells = [_cell(row.scores[task], found.get((row.model, task))) for task in TASKS]
        mean = f"{_mean(row.scores):.3f} "
        if row is not base:
            mean += f"\n{signed(_mean(row.scores) - _mean(base.scores), ABSENT)} "
        grid.add_row(folded(_short(row.model)), *cells, mean)
    notes = [f"Note: {note}" for note in table.notes]
    return titled(f"{table.name}: scores, and differences to {_short(base.model)}", grid, *notes)


def _cell(score: float, found: HistoryDifference | None) -> Text:
    from rich.text import Text

    from archer.report.numbers import signed

    if found is None:
        return Text(f"{score:.3f}")
    styles = {"one function": "dim", "within noise": "dim", "no noise estimate": "magenta"}
    style = styles.get(found.conclusion, "bold cyan" if found.difference > 0 else "bold dark_orange")
    change = "" if found.conclusion == "one function" else signed(found.difference, ABSENT)
    return Text(f"{score:.3f} ").append(f"\n{change}{MARKS[found.conclusion]}", style=style)


def _standings(analysis: Analysis, width: int) -> RenderableType:
    from archer.report.numbers import signed

    grid = plain_table(width)
    grid.add_column("Task", no_wrap=True)
    for heading in (_short(analysis.baseline), _short(analysis.reference), "Lead"):
        grid.add_column(folded(heading, 10), justify="right", no_wrap=True)
    grid.add_column("Best trial", overflow="fold")
    grid.add_column("Score", justify="right", no_wrap=True)
    grid.add_column("Ahead", no_wrap=True)
    for one in analysis.standings:
        ahead = "reference" if one.reference_ahead else "trial"
        numbers = (f"{one.baseline:.3f}", f"{one.reference:.3f}", signed(one.gap, ABSENT))
        grid.add_row(
            one.task,
            *numbers,
            folded(_short(one.best_model), 16 if width < ROOMY else 30),
            f"{one.best_score:.3f}",
            ahead,
        )
    untried = f"Not in this table: {', '.join(analysis.untried)}." if analysis.untried else ""
    unresolved = ", ".join(analysis.unresolved)
    title = f"{analysis.table}: where {_short(analysis.reference)} leads {_short(analysis.baseline)}"
    return titled(title, grid, untried, f"Names that mean no known rule: {unresolved}." if unresolved else "")


def _mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def _short(model: str) -> str:
    """The rule that a model's name means, or the name without what they all begin with."""
    from archer.rules import resolve_history_name

    return resolve_history_name(model) or model.removeprefix("delta_net_4layer_")


# Conclusions


def _conclusions(shown: Sequence[HistoryTable], judged: Rejudged) -> list[str]:
    """Group by group, since numbers of different groups never stand in one sentence."""
    names = {table.name for table in shown}
    lines = ["What can be concluded"]
    for group in judged.groups:
        of_group = [name for name in group if name in names]
        if of_group:
            found = [one for one in judged.differences if one.table in of_group]
            lines += [f"\n{', '.join(of_group)}", *_group_lines(judged, group, found)]
    return [*lines, *_mixing_lines(names, judged)]


def _group_lines(judged: Rejudged, group: tuple[str, ...], found: Sequence[HistoryDifference]) -> list[str]:
    open_ones = [one for one in found if one.conclusion == "no noise estimate"]
    first, *others = group
    return [
        *([f"- May stand in one comparison: {', '.join(group)}."] if others else []),
        *_noise_lines(judged, first, found),
        *_difference_lines("Beyond the noise", found, "beyond noise"),
        *_difference_lines("The same function, so no difference at all", found, "one function"),
        *_difference_lines("Within the noise", found, "within noise"),
        *([_open_line(open_ones)] if open_ones else []),
    ]


def _noise_lines(judged: Rejudged, first: str, found: Sequence[HistoryDifference]) -> list[str]:
    """Every floor that a conclusion rests on, with where it was learned."""
    from archer.judge import shipped_variance

    floors = dict(judged.noise[first])
    tested = {one.task for one in found if one.p_value is not None}
    floors |= {task: shipped_variance()[task] for task in sorted(tested - floors.keys())}
    lines = [
        f"- Noise on {task}: standard deviation {floor.sd:.3f} ({floor.source})."
        for task, floor in floors.items()
    ]
    lines += [
        f"- On {task}, rules that are one function within one chunk differ plainly here: these models were "
        "trained in a way in which they are not, and nothing is claimed of them."
        for name, task in judged.contradicted
        if name == first
    ]
    return lines


def _difference_lines(title: str, found: Sequence[HistoryDifference], conclusion: str) -> list[str]:
    from archer.report.numbers import signed

    chosen = [one for one in found if one.conclusion == conclusion]
    lines = []
    for task in dict.fromkeys(one.task for one in chosen):
        words: dict[str, str] = {}
        for one in chosen:
            if one.task == task:
                words.setdefault(_short(one.model), f"{_short(one.model)} {signed(one.difference, ABSENT)}")
        lines.append(f"- {title}, {task}: {', '.join(words.values())}.")
    return lines or [f"- {title}: none."]


def _open_line(found: Sequence[HistoryDifference]) -> str:
    """Under which bound the noise would have to lie for the largest differences to be any."""
    from archer.report.numbers import signed

    largest: dict[tuple[str, str], str] = {}
    for one in sorted(found, key=lambda one: -abs(one.difference)):
        if one.noise_below:  # a difference of zero is none under any noise
            words = f"{_short(one.model)} on {one.task} {signed(one.difference, ABSENT)}"
            largest.setdefault((one.model, one.task), f"{words} (below {one.noise_below:.3f})")
    tasks = len({one.task for one in found})
    said = f"- Not decided: {len(found)} differences on {tasks} tasks in which nothing was repeated."
    if not largest:
        return said
    return (
        f"{said} Each is one only if the standard deviation of a score lies below a bound; the largest: "
        f"{', '.join([*largest.values()][:3])}."
    )


def _mixing_lines(names: set[str], judged: Rejudged) -> list[str]:
    """One line for two groups that contradict each other, with one of the numbers that do."""
    lines = []
    for index, ours in enumerate(judged.groups):
        for theirs in judged.groups[index + 1 :]:
            apart = [c for c in judged.conflicts if {*c.tables} & {*ours} and {*c.tables} & {*theirs}]
            if not apart or not names & {*ours, *theirs}:
                continue
            (one, other), example = apart[0].scores, apart[0]
            numbers = len({(conflict.model, conflict.task) for conflict in apart})
            shown = f"{_short(example.model)} on {example.task}, {one:.3f} and {other:.3f}"
            lines.append(
                f"\nNever mix {', '.join(theirs)} with the tables of {ours[0]}: "
                f"{numbers} numbers of the same models differ, such as {shown}."
            )
    return lines
