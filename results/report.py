"""Writes the tables and figures of the pages about results anew from results/<preset>.csv.

    python results/report.py            # the blocks between markers, and docs/images/results-*.svg
    python results/report.py --check    # exit status 1 where a page is not what the tables say

The words around the blocks are written by hand, in docs/results.md (what was found, in two pages),
docs/results-notes.md (how, and what else), docs/results-tables.md (every table) and README.md. A block stands
between `<!-- results: NAME -->` and `<!-- end: NAME -->`. NAME is a preset (all its tables), a preset and
`goal` (every rule beside the reference) or `history` (its scores beside the history's), `agreement`, or `main`
(the rules with the best means). Tables may be incomplete or absent: what is missing is named, and so is every run
that does not count.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from archer.cycle.reach import Reach
from archer.cycle.reading import compare_known, table_ledger
from archer.errors import UserError
from archer.judge.ceiling import STOP_ACCURACY, solved_after
from archer.ledger import Ledger, ScoreRow, builtin_history, chosen_runs
from archer.ledger.records import TASKS, Comparison, RunRecord, TaskComparison
from archer.mad.presets import PRESETS
from archer.report import charts
from archer.report.agreement import PAIRS, agreement, agreements, in_words, preset_scores
from archer.report.numbers import ends, is_number, score, signed, word
from archer.report.svg import standalone
from archer.rules import BASE, REFERENCE, get_rule, resolve_history_name, rule_names

HERE = Path(__file__).parent
MEAN, ABSENT, MAIN = "Mean", "\u2013", "main"
PAGES = ("results.md", "results-notes.md", "results-tables.md")
BEST = 10
"""So many rules are in the main table."""

HISTORY = "fifteen_trials"
"""The table of earlier results that has every rule under one protocol."""

LEVEL = 0.01
"""Rules whose scores all lie within this are in no order: it is the margin of "same"."""

NOTABLE = 0.05
"""An earlier difference below this is not a claim: eight rules that are one function differ there by 0.02."""

Scores = Mapping[str, Mapping[str, float]]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; say whether the page is current"
    )
    parser.add_argument("--results", type=Path, default=HERE, help="the folder of the tables")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="the folder of results.md")
    arguments = parser.parse_args()
    try:
        current = write(arguments.results, arguments.docs, arguments.check)
    except UserError as error:
        sys.exit(f"error: {error}")
    for path in sorted(arguments.results.glob("*.csv")):
        if path.stem not in PRESETS:
            print(f"not read: {path.name} is the table of no preset")
    if arguments.check and not current:
        sys.exit("a page is not what the tables say: run `python results/report.py`")


def write(results: Path, docs: Path, check: bool = False) -> bool:
    """Whether the pages were current; unless they are only checked, they are afterwards. Raises UserError.

    A preset's block that no page has a place for comes to the end of the last page.
    """
    tables = read_tables(results)
    known = (docs.parent / "README.md", *(docs / name for name in PAGES))
    before = {page: page.read_text(encoding="utf-8") for page in known if page.exists()}
    if not before:
        raise UserError(f"--docs: '{docs}' holds no results.md; name the folder of the pages")
    asked = {name: page for page, text in before.items() for name in places(text)}
    after = dict(before)
    for name, block in blocks(tables, list(asked)).items():
        page = asked.get(name, list(before)[-1])
        after[page] = put(after[page], name, block)
    if not check:
        _draw(tables, docs / "images")
        for path, text in after.items():
            path.write_text(text, encoding="utf-8")
    return after == before


def _draw(tables: Mapping[str, Table], folder: Path) -> None:
    """The figures of these tables; those of earlier tables go."""
    folder.mkdir(exist_ok=True)
    drawings = dict(figures(tables))
    for path in folder.glob("results-*.svg"):
        if path.name not in drawings:
            path.unlink()
    for name, drawing in drawings.items():
        (folder / name).write_text(drawing, encoding="utf-8")


@dataclass(frozen=True)
class Table:
    """The runs of one preset. runs: those that count. left_out: why others do not, and how many.

    stand_ins: the parent's runs in the name of a rule that was not trained where it is its parent.
    compared: every rule with the plain delta rule; against: with the reference. Empty where that was not
    trained.
    """

    runs: tuple[RunRecord, ...]
    left_out: Mapping[str, int]
    stand_ins: tuple[RunRecord, ...] = ()
    compared: tuple[Comparison, ...] = ()
    against: tuple[Comparison, ...] = ()

    def scores(self, preset: str) -> tuple[ScoreRow, ...]:
        """The scores of its rules, stand-ins included."""
        return preset_scores((*self.runs, *self.stand_ins), preset)


def read_tables(folder: Path) -> dict[str, Table]:
    """The table of each preset that has one. Raises UserError where it holds runs of another preset."""
    if not folder.is_dir():
        raise UserError(f"--results: '{folder}' is no folder; name the one of quick.csv, full.csv \u2026")
    return {name: read_table(path) for name in PRESETS if (path := folder / f"{name}.csv").exists()}


def read_table(path: Path) -> Table:
    """Of each rule the version that was trained last (an edited rule is another rule under the same name),
    in the settings of the preset."""
    with table_ledger(path) as ledger:
        return _table_of(path, ledger, ledger.runs())


def _table_of(path: Path, ledger: Ledger, runs: Sequence[RunRecord]) -> Table:
    name, others = path.stem, {run.preset for run in runs} - {path.stem}
    if others:
        raise UserError(f"{path}: runs of {', '.join(sorted(others))}; expected those of {name} alone")
    last = {run.rule: run.rule_hash for run in sorted(runs, key=lambda run: run.finished_at)}
    settings = {setting.name for setting in PRESETS[name].settings}
    kept = tuple(run for run in runs if run.rule_hash == last[run.rule] and run.setting in settings)
    old = [run for run in runs if run.rule_hash != last[run.rule]]
    found = {
        "of an earlier version of their rule": len(old),
        "in a setting that the preset no longer has": len(runs) - len(kept) - len(old),
    }
    reach = Reach(ledger, kept)
    left_out = {reason: number for reason, number in found.items() if number}
    found = (comparisons(name, reach, other) for other in (BASE, REFERENCE))
    return Table(kept, left_out, reach.stand_ins(), *found)


def places(page: str) -> list[str]:
    """Names of the blocks that a page has places for."""
    return re.findall(r"^<!-- results: (.+) -->$", page, re.MULTILINE)


def put(page: str, name: str, block: str) -> str:
    """The page with one block renewed; at its end where it has no place. Raises UserError for half of one."""
    first, last = f"<!-- results: {name} -->", f"<!-- end: {name} -->"
    if first not in page and last not in page:
        page = f"{page.rstrip()}\n\n## {name}\n\n{first}\n{last}\n"
    if page.count(first) != 1 or page.count(last) != 1 or page.index(first) > page.index(last):
        raise UserError(f"expected one line {first} and after it one line {last}")
    head, rest = page.split(first)
    return f"{head}{first}\n\n{block}\n\n{last}{rest.split(last)[1]}"


def blocks(tables: Mapping[str, Table], asked: Sequence[str] = ()) -> dict[str, str]:
    """Every generated block, by name. asked: blocks that the page wants, though there be no table.

    Raises UserError where the page wants what there cannot be.
    """
    history = earlier_scores()
    found = dict.fromkeys(asked, "No run of this preset yet.")
    whole = {"agreement": agreement_block(tables), MAIN: goal_block("quick", tables.get("quick"), BEST)}
    for name in PRESETS:
        whole[f"{name} goal"] = goal_block(name, tables.get(name))
        whole[f"{name} history"] = history_block(name, tables.get(name), history)
    strange = [name for name in asked if name not in {*PRESETS, *whole}]
    if strange:
        raise UserError(f"no preset is called {', '.join(strange)}")
    found |= {name: "\n\n".join(preset_block(name, table, history)) for name, table in tables.items()}
    return found | {name: block for name, block in whole.items() if name in asked}


def earlier_scores() -> dict[str, dict[str, float]]:
    """Rule to task to score, as the history has it."""
    table = next(table for table in builtin_history() if table.name == HISTORY)
    named = {resolve_history_name(row.model): dict(row.scores) for row in table.rows}
    return {rule: scores for rule, scores in named.items() if rule}


# One preset


def preset_block(name: str, table: Table, history: Scores) -> Iterator[str]:
    """What was run, the scores beside the history, each setting, the differences, and what is missing."""
    runs, compared = table.runs, table.compared
    rows = sorted(table.scores(name), key=_order)
    tasks = [task for task in TASKS if any(run.task == task for run in runs)]
    yield _what(table)
    yield history_block(name, table, history)
    yield from _stood_in(table)
    own = preset_scores(runs, name)  # a copy of its parent's score is no evidence of an order
    order = [line for task in tasks if (line := _order_of_history(name, task, own, history))]
    if order:
        yield f"Kendall's correlation with the history's order, where rules differ: {'; '.join(order)}."
    for task in tasks:
        trained = {run.setting for run in runs}
        settings = [one.name for one in PRESETS[name].settings if one.task == task and one.name in trained]
        if sum(one.task == task for one in PRESETS[name].settings) > 1:
            yield f"{task}, setting by setting:"
            yield _table(["rule", *_short(settings)], [_by_setting(row.rule, runs, settings) for row in rows])
    solved = [task for task in tasks if any(_epochs_until_solved(row.rule, task, runs) for row in rows)]
    if solved:
        yield (
            f"Epochs until a grid point reached {STOP_ACCURACY:g} and stopped, the median over settings and "
            f"seeds (a description, of which no test is made; {ABSENT}: one of them was not solved):"
        )
        lines = [
            [f"`{row.rule}`", *(_epochs_until_solved(row.rule, t, runs) or ABSENT for t in solved)]
            for row in rows
        ]
        yield _table(["rule", *solved], [line for line in lines if set(line[1:]) != {ABSENT}])
    if compared:
        yield f"Minus {BASE}, with 95% intervals; in brackets what the history said, and whether that holds:"
        whole = {task: _settings_of(name, task) == _settings_of("full", task) for task in tasks}
        lines = [
            [f"`{c.candidate}`", *(_difference(c, task, history, whole[task]) for task in tasks)]
            for c in compared
        ]
        yield _table(["rule", *tasks], lines)
        drawn = [f"![{task}: differences](images/{_file(name, task)})" for task in _drawable(compared)]
        yield " ".join([f"![Scores of {name}](images/{_file(name, 'heat')})", *drawn])
    missing = list(_missing(name, rows))
    if missing:
        yield "\n".join(["Not there yet:", "", *missing])


def history_block(name: str, table: Table | None, history: Scores) -> str:
    """The scores of a preset's rules, and the history's."""
    if table is None:
        return "No run of this preset yet."
    tasks = [task for task in TASKS if any(run.task == task for run in table.runs)]
    lines = [_scores(row, tasks, history) for row in sorted(table.scores(name), key=_order)]
    return (
        f"{_table(['rule', *tasks, 'mean', 'seeds'], lines)}\n\nIn brackets the history's score, a mean over "
        f"all settings of the task. {ABSENT}: some of the task's settings lack a run."
    )


def _stood_in(table: Table) -> Iterator[str]:
    """Where a score is the parent's."""
    tasks: dict[str, dict[str, None]] = {}
    for run in table.stand_ins:
        tasks.setdefault(run.task, {})[f"`{run.rule}`"] = None
    if tasks:
        named = "; ".join(f"{task}: {', '.join(rules)}" for task, rules in tasks.items())
        yield f"Not trained where they compute what their parent computes, whose runs count there: {named}."


def _settings_of(preset: str, task: str) -> set[str]:
    return {setting.name for setting in PRESETS[preset].settings if setting.task == task}


def _order_of_history(name: str, task: str, rows: Sequence[ScoreRow], history: Scores) -> str:
    """How far the order of rules on a task is the history's; "" where all that both know are level."""
    known = {row.rule: (row.scores[task], history.get(row.rule, {}).get(task)) for row in rows}
    both = {
        rule: (ours, then) for rule, (ours, then) in known.items() if ours is not None and then is not None
    }
    ours = [pair[0] for pair in both.values()]
    if len(both) < 2 or max(ours) - min(ours) < LEVEL:
        return ""
    return f"{task} {in_words(agreement(name, HISTORY, task, both))}"


def _missing(name: str, rows: Sequence[ScoreRow]) -> Iterator[str]:
    """A line per task: how many of its settings each rule lacks a score in."""
    for task in TASKS:
        total = sum(setting.task == task for setting in PRESETS[name].settings)
        lacking: dict[int, list[str]] = {}
        for row in rows:
            if task in row.missing and row.missing[task].settings:
                lacking.setdefault(len(row.missing[task].settings), []).append(f"`{row.rule}`")
        for number, rules in sorted(lacking.items(), reverse=True):
            yield f"- {task}, {number} of {total} settings: {', '.join(rules)}"


def _order(row: ScoreRow) -> tuple[bool, bool, bool, float, str]:
    """The two references first, then by the mean, and those without one by name."""
    return (row.rule != BASE, row.rule != REFERENCE, row.mean is None, -(row.mean or 0.0), row.rule)


def _what(table: Table) -> str:
    runs = table.runs
    dropped = sum(run.status == "dropped" for run in runs)
    lost = sum(run.status != "finished" for run in runs) - dropped
    raced = f"{dropped} of them dropped by the race, " if dropped else ""
    known = sorted({run.revision for run in runs if run.revision})
    revisions = f"{'revision' if len(known) == 1 else 'the revisions'} {', '.join(known)}"
    left_out = "".join(f" Left out: {number} runs {reason}." for reason, number in table.left_out.items())
    built_in = {run.rule: run.rule_hash for run in runs if run.rule in rule_names()}
    earlier = [f"`{name}`" for name, text in sorted(built_in.items()) if text != get_rule(name).hash]
    if earlier:
        left_out += f" Trained with an earlier text of the rule: {', '.join(earlier)}."
    return (
        f"{len(runs):,} runs of {len({run.rule for run in runs})} rules, {raced}{lost} without a score, on "
        f"{' and '.join(sorted({run.device for run in runs if run.device}))}; "
        f"{sum(run.wall_seconds for run in runs) / 60:,.1f} minutes of training. "
        f"Trained by {revisions}.{left_out}"
    )


def _scores(row: ScoreRow, tasks: Sequence[str], history: Scores) -> list[str]:
    known = history.get(row.rule, {})
    cells = [f"{score(row.scores[task], ABSENT)} ({score(known.get(task), ABSENT)})" for task in tasks]
    return [f"`{row.rule}`", *cells, score(row.mean, ABSENT), str(row.seeds)]


def _by_setting(rule: str, runs: Sequence[RunRecord], settings: Sequence[str]) -> list[str]:
    """The mean over seeds in each setting."""
    chosen = chosen_runs([run for run in runs if run.rule == rule])
    cells = []
    for name in settings:
        found = [run.held_out for (_, setting, _), run in chosen.items() if setting == name]
        known = [value for value in found if value is not None and is_number(value)]
        cells.append(score(sum(known) / len(known) if known and len(known) == len(found) else None, ABSENT))
    return [f"`{rule}`", *cells]


def _epochs_until_solved(rule: str, task: str, runs: Sequence[RunRecord]) -> str:
    """The median over settings and seeds of the fewest epochs; "" where one of them was not solved."""
    epochs: dict[tuple[str, int], list[int]] = {}
    for run in runs:
        if (run.rule, run.task) == (rule, task):
            reached = solved_after(run)
            epochs.setdefault((run.setting, run.seed), []).extend([] if reached is None else [reached])
    return f"{median(min(found) for found in epochs.values()):g}" if epochs and all(epochs.values()) else ""


def _short(settings: Sequence[str]) -> list[str]:
    """Names of settings without the parts that all of them share."""
    parts = [name.split("-") for name in settings]
    shared = set(parts[0]).intersection(*parts[1:])
    return ["-".join(part for part in one if part not in shared) or "-".join(one) for one in parts]


def comparisons(name: str, reach: Reach, other: str) -> tuple[Comparison, ...]:
    """Every rule against another one, as `archer compare` does it; none where that has no runs."""
    if other not in reach.hashes:
        return ()
    runs = (*reach.runs, *reach.stand_ins())
    scores = {row.rule: row.scores for row in preset_scores(runs, name)}
    pairs = [(rule, other) for rule in sorted(reach.hashes) if rule != other]
    return tuple(_of_whole_tasks(c, scores) for c in compare_known(reach, pairs, name))


def _of_whole_tasks(comparison: Comparison, scores: Mapping[str, Mapping[str, float | None]]) -> Comparison:
    """Without the differences of tasks of which either rule lacks a setting: the history has whole tasks."""
    own, base = scores[comparison.candidate], scores[comparison.baseline]
    lines = (
        line if None not in (own[line.task], base[line.task]) else replace(line, difference=None)
        for line in comparison.tasks
    )
    return replace(comparison, tasks=tuple(lines))


def _difference(comparison: Comparison, task: str, history: Scores, whole: bool) -> str:
    line = next(line for line in comparison.tasks if line.task == task)
    then = _earlier_difference(comparison.candidate, task, history)
    if line.difference is None:
        return f"{ABSENT} ({signed(then, ABSENT)})"
    found = f"{signed(line.difference, ABSENT)} {ends(line, 'no interval')}"
    return f"{found} **{word(line)}** ({signed(then, ABSENT)}: {holds(line, then, whole)})"


def _earlier_difference(rule: str, task: str, history: Scores) -> float | None:
    ours, base = history.get(rule, {}).get(task), history.get(BASE, {}).get(task)
    return None if ours is None or base is None else ours - base


def holds(line: TaskComparison, earlier: float | None, whole: bool = True) -> str:
    """What becomes of an earlier difference: confirmed, contradicted, open, or no claim at all.

    whole: whether ours is over all settings of the task, as the history's is; else it says only which sign is
    seen in the settings of the preset.
    """
    if earlier is None:
        return "no claim"
    if abs(earlier) < NOTABLE:
        return "noise"
    if line.word == "undecided":
        return "level here" if line.no_room == "both" else "open"
    agrees = {"better": earlier > 0, "worse": earlier < 0}.get(line.word)
    if whole:
        return "confirmed" if agrees else "contradicted"
    return "level here" if agrees is None else "same sign" if agrees else "other sign"


# The goal: ahead of the reference


def goal_block(name: str, table: Table | None, most: int | None = None) -> str:
    """Every rule's scores under a preset, the best mean first, and where it is better or worse than the
    reference. most: so many rules, and the plain delta rule."""
    if table is None:
        return "No run of this preset yet."
    runs = table.runs
    tasks = [task for task in TASKS if any(run.task == task for run in runs)]
    verdicts = {one.candidate: {line.task: line for line in one.tasks} for one in table.against}
    rows = sorted(table.scores(name), key=lambda row: (row.mean is None, -(row.mean or 0.0), row.rule))
    shown = [row for index, row in enumerate(rows) if most is None or index < most or row.rule == BASE]
    lines = [
        [
            f"`{row.rule}`",
            *(_marked(row.scores[task], verdicts.get(row.rule, {}).get(task)) for task in tasks),
            _marked(row.mean, None),
        ]
        for row in shown
    ]
    seeds = sorted({row.seeds for row in shown if row.seeds})
    number = " to ".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1])))
    legend = (
        f"Preset `{name}`, seeds: {number}. Beside `{REFERENCE}`: ▲ better, ▼ worse (5%, Holm over tasks), "
        f"= the same within {LEVEL:g}, no mark undecided; {ABSENT}: some of the task's settings lack a run."
    )
    return f"{_table(['rule', *tasks, 'mean'], lines)}\n\n{legend}"


def _marked(value: float | None, line: TaskComparison | None) -> str:
    judged = line.word if line and line.difference is not None else ""
    mark = {"better": " ▲", "worse": " ▼", "same": " ="}.get(judged, "")
    return f"{score(value, ABSENT)}{mark if value is not None else ''}"


# How well the small presets predict


def agreement_block(tables: Mapping[str, Table]) -> str:
    """Kendall's rank correlation of each preset with the dearer ones."""
    runs = [run for table in tables.values() for run in table.runs]
    found = {f"{smaller} and {larger}": agreements(runs, smaller, larger) for smaller, larger in PAIRS}
    rows = [
        [lines[0].task, *(in_words(line) for line in lines)] for lines in zip(*found.values(), strict=True)
    ]
    return _table(["task", *found], rows)


# Figures


def figures(tables: Mapping[str, Table]) -> Iterator[tuple[str, str]]:
    """File name and drawing: a heat map per preset, and every rule's difference on each task."""
    words = dict.fromkeys(("better", "worse", "same", "undecided"), "") | {"missing": "no score"}
    for name, table in tables.items():
        compared = table.compared
        if not compared:
            continue
        rows = sorted(table.scores(name), key=_order)
        base = next(row for row in rows if row.rule == BASE)
        scores = {row.rule: {**row.scores, MEAN: row.mean} for row in rows}
        spec = charts.heat_map(scores, {**base.scores, MEAN: base.mean})
        yield _file(name, "heat"), standalone(spec, f"Scores of {name}, shaded by the difference to {BASE}")
        for task in _drawable(compared):
            lines = [replace(line, task=c.candidate) for c in compared for line in c.tasks
                     if line.task == task and line.difference is not None]  # fmt: skip
            axis = f"{task}: difference to {BASE}"
            yield _file(name, task), standalone(charts.difference_chart(lines, words, axis, 170), axis)


def _drawable(compared: Sequence[Comparison]) -> list[str]:
    """Tasks with a difference for some rule."""
    known = {line.task for c in compared for line in c.tasks if line.difference is not None}
    return [task for task in TASKS if task in known]


def _file(preset: str, what: str) -> str:
    return f"results-{preset}-{re.sub('[^a-z]+', '-', what.lower())}.svg"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
