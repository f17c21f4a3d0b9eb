"""`archer table`: the ledger's results, every rule on the six tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_json, results
from archer.cli.shared import (
    ABSENT,
    DEFAULT_PROJECT,
    CsvOption,
    FromOption,
    JsonOption,
    OrProjectOption,
    add_task_columns,
    folded,
    latest_versions,
    name_width,
    one_of,
    open_runs,
    plain_table,
    presets_of,
    titled,
    write_csv,
    write_text,
)
from archer.errors import unknown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from archer.judge.cells import Cells
    from archer.judge.noise import NoiseFloor
    from archer.ledger import Ledger, ScoreRow
    from archer.ledger.records import RunRecord
    from archer.report.costs import RuleCost

SELECT = {
    "held_out": (
        "held-out scores",
        "run and checkpoint chosen on validation data, scored on test data",
    ),
    "mad": ("mad-lab's scores", "run and checkpoint chosen on the test data itself, as mad-lab does"),
}
"""What may be asked for: its title, and how it is chosen."""


@dataclass(frozen=True)
class _Preset:
    """One preset's part of the answer. stood_in: rule to settings in which its parent's runs count.

    full: tasks on which the reference leaves no room. epochs: rule hash to task to the epochs until solved,
    one for each setting and seed, None where it was not; of each rule's newest version.
    """

    name: str
    ranks: bool | None
    rows: tuple[ScoreRow, ...]
    noise: Mapping[str, NoiseFloor]
    stood_in: Mapping[str, tuple[str, ...]]
    seeds: int | None
    costs: Mapping[str, RuleCost]
    full: tuple[str, ...]
    epochs: Mapping[str, Mapping[str, tuple[int | None, ...]]]


def command(
    project: OrProjectOption = None,
    table: FromOption = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="One preset's runs alone.")
    ] = None,
    select: Annotated[
        str, typer.Option("--select", metavar="NAME", help="The score: held_out or mad.")
    ] = "held_out",
    runs: Annotated[bool, typer.Option("--runs", help="One line per run instead of scores.")] = False,
    epochs: Annotated[
        bool, typer.Option("--epochs", help="Epochs until solved as well: a description, no verdict.")
    ] = False,
    csv: CsvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rules by tasks: what this project has measured.

    Scores of the six tasks, their mean, the seeds, and what is missing. A missing score is shown as
    missing. Every preset has a table of its own: they never mix. Where the reference leaves no room, it is
    said.

    \b
    Examples: archer table --preset quick --epochs
              archer table --csv scores.csv
              archer table --runs --csv -
    """
    one_of(("--json", as_json), ("--csv", csv is not None))
    one_of(("--epochs", epochs), ("--csv", csv is not None))
    one_of(("--epochs", epochs), ("--runs", runs))
    if select not in SELECT:
        raise unknown("score", select, SELECT)
    with open_runs(project, table) as ledger:
        everything = ledger.runs()
        chosen = presets_of(everything, preset, table or project or DEFAULT_PROJECT)
        kept = [run for run in everything if run.preset in chosen]
        if runs:
            _show_runs(kept, csv, as_json)
            return
        found = [_gather(ledger, kept, name, select) for name in chosen]
    _show(found, select, epochs, csv, as_json)


def _gather(ledger: Ledger, runs: Sequence[RunRecord], name: str, select: Any) -> _Preset:
    from archer.cycle.reach import Reach
    from archer.judge.cells import Cells
    from archer.ledger import score_table
    from archer.ledger.records import TASKS
    from archer.mad.presets import PRESETS
    from archer.report.costs import ledger_costs

    own = tuple(run for run in runs if run.preset == name)
    newest = latest_versions(own)
    reach = Reach(ledger, newest)
    stand_ins = reach.stand_ins()
    known = PRESETS.get(name)
    planned: dict[str, Any] = {}
    if known is not None and {run.setting for run in own} <= {setting.name for setting in known.settings}:
        tasks = dict.fromkeys(setting.task for setting in known.settings)
        planned["settings"] = {t: [s.name for s in known.settings if s.task == t] for t in tasks}
        planned["grid"] = [(rate, decay) for rate in known.learning_rates for decay in known.weight_decays]
    rows = score_table((*own, *stand_ins), name, select, **planned)
    ranks = known.ranks if known else None
    stood_in: dict[str, dict[str, None]] = {}
    for run in stand_ins:
        stood_in.setdefault(run.rule, {})[run.setting] = None
    cells = Cells((*newest, *stand_ins), name)
    return _Preset(
        name=name,
        ranks=ranks,
        rows=tuple(sorted(rows, key=lambda row: _order(row, ranks))),
        noise=reach.noise(),
        stood_in={rule: tuple(settings) for rule, settings in stood_in.items()},
        seeds=known.seeds if known else None,
        costs=ledger_costs(ledger, newest),
        full=_full(cells, rows) if ranks is not False else (),
        epochs={
            cells.hashes[rule]: {task: cells.epochs_until_solved(rule, task) for task in TASKS}
            for rule in cells.rules
        },
    )


def _full(cells: Cells, rows: Sequence[ScoreRow]) -> tuple[str, ...]:
    """Tasks that the reference has a score of, and on which it leaves no room."""
    from archer.rules import REFERENCE

    scores = [row.scores for row in rows if row.rule == REFERENCE]
    full = cells.without_room(REFERENCE)
    return tuple(task for task in full if any(one[task] is not None for one in scores))


def _order(row: ScoreRow, ranks: bool | None) -> tuple[Any, ...]:
    """By the mean, best first and missing last; where nothing is ranked, the two references, then by name."""
    from archer.rules import BASE, REFERENCE

    if ranks is False:
        return (row.rule != BASE, row.rule != REFERENCE, row.rule)
    return (row.mean is None, -(row.mean or 0.0), row.rule)


def _show(found: Sequence[_Preset], select: str, epochs: bool, csv: str | None, as_json: bool) -> None:
    if csv is not None:
        from archer.ledger.records import TASKS

        header = ("preset", "rule", "rule_hash", "select", *TASKS, "Mean", "seeds", "missing", *COSTS)
        write_csv(csv, header, [_csv_row(part, row, select) for part in found for row in part.rows])
    elif as_json:
        print_json([_values(part, select) for part in found])
    else:
        console = results()
        for number, part in enumerate(found):
            console.print(*([""] if number else []), _table(part, select, epochs, console), sep="\n")


COSTS = ("parameters", "state_per_head", "heads", "operations_per_token")
"""Columns of the CSV for what a rule costs; the speeds belong to machines and stand in --json."""


def _csv_row(part: _Preset, row: ScoreRow, select: str) -> list[Any]:
    scores = [*row.scores.values(), row.mean, row.seeds, _missing(row)]
    costs = [getattr(part.costs.get(row.rule), name, None) for name in COSTS]
    return [part.name, row.rule, row.rule_hash, select, *scores, *costs]


def _missing(row: ScoreRow) -> str:
    return "; ".join(f"{task}: {missing}" for task, missing in row.missing.items())


def _values(part: _Preset, select: str) -> dict[str, Any]:
    from archer.report.costs import as_values

    rows = [
        {
            "rule": row.rule,
            "rule_hash": row.rule_hash,
            "scores": row.scores,
            "mean": row.mean,
            "seeds": row.seeds,
            "missing": {task: str(missing) for task, missing in row.missing.items()},
            "as_parent": part.stood_in.get(row.rule, ()),
            "cost": as_values(part.costs[row.rule]) if row.rule in part.costs else None,
            "epochs_until_solved": part.epochs.get(row.rule_hash, {}),
        }
        for row in part.rows
    ]
    noise = {task: _floor(part, task) for task in part.noise}
    about = {"preset": part.name, "ranks": part.ranks, "select": select}
    return {**about, "rules": rows, "noise_sd": noise, "no_room": part.full}


def _table(part: _Preset, select: str, epochs: bool, console: Console) -> RenderableType:
    from rich.text import Text

    from archer.ledger.records import TASKS
    from archer.report.numbers import score

    grid = plain_table(console.width, many=True)
    grid.add_column("Rule", no_wrap=True)
    add_task_columns(grid, (*TASKS, "Mean"), console.width)
    grid.add_column("Seeds", justify="right", no_wrap=True)
    for row in part.rows:
        cells = [score(row.scores[task], ABSENT) for task in TASKS]
        few = part.seeds is not None and row.seeds < part.seeds
        seeds = f"{row.seeds}/{part.seeds}" if few else str(row.seeds)
        name = folded(_label(row, part.rows), name_width(console.width))
        grid.add_row(name, *cells, score(row.mean, ABSENT), seeds)
    if part.noise:
        grid.add_section()
        floors = [_floor_text(part, task) for task in TASKS]
        grid.add_row("noise, 1 seed", *floors, "", "", style="dim")
    from archer.report.language import catalogue
    from archer.report.terminal import cost_grid
    from archer.report.wording import Wording

    body: list[RenderableType] = [titled(f"{part.name}: {SELECT[select][0]}", grid, *_notes(part, select))]
    if part.ranks is False:
        warning = f"! {part.name} ranks nothing: its runs are too short and too few to tell rules apart."
        body.insert(0, Text(warning, style="bold yellow"))
    body += [Text(""), _epochs_table(part, console)] if epochs else []
    costs = {row.rule: part.costs[row.rule] for row in part.rows if row.rule in part.costs}
    body += [Text(""), cost_grid(costs, console.width, Wording(catalogue("en")))] if costs else []
    from rich.console import Group

    return Group(*body)


def _epochs_table(part: _Preset, console: Console) -> RenderableType:
    from archer.ledger.records import TASKS
    from archer.report.language import catalogue
    from archer.report.numbers import epochs

    grid = plain_table(console.width, many=True)
    grid.add_column("Rule", no_wrap=True)
    add_task_columns(grid, TASKS, console.width)
    for row in part.rows:
        known = part.epochs.get(row.rule_hash, {})
        name = folded(_label(row, part.rows), name_width(console.width))
        grid.add_row(name, *(epochs(known.get(task, ()), ABSENT) for task in TASKS))
    return titled(f"{part.name}: epochs until solved", grid, catalogue("en").text("epochs.reading"))


def _label(row: ScoreRow | RunRecord, rows: Iterable[ScoreRow | RunRecord]) -> str:
    """A rule's name; with the start of its file's hash where two versions of it stand in the table."""
    twice = any(other.rule == row.rule and other.rule_hash != row.rule_hash for other in rows)
    return f"{row.rule} @{row.rule_hash[:6]}" if twice else row.rule


def _floor(part: _Preset, task: str) -> float | None:
    from archer.mad.presets import PRESETS

    floor, known = part.noise.get(task), PRESETS.get(part.name)
    if floor is None:
        return None
    settings = sum(setting.task == task for setting in known.settings) if known else floor.settings
    return floor.score_sd(settings)


def _floor_text(part: _Preset, task: str) -> str:
    value = _floor(part, task)
    if value is None:
        return ABSENT
    return f"{'≤' if part.noise[task].provisional else ''}{value:.3f}"


def _learned(part: _Preset) -> str:
    """What the noise rests on, and on which tasks where that is not one thing for all."""
    sources: dict[str, list[str]] = {}
    for task, floor in part.noise.items():
        sources.setdefault(floor.source, []).append(task)
    if len(sources) == 1:
        return next(iter(sources))
    return "; ".join(f"{source} ({', '.join(tasks)})" for source, tasks in sources.items())


def _notes(part: _Preset, select: str) -> list[str]:
    notes = [f"Scores: mean over the task's settings, then over seeds; {SELECT[select][1]}."]
    if part.noise:
        bound = any(floor.provisional for floor in part.noise.values())
        notes.append(
            "Noise: how far a score moves when it is trained again with another seed (standard deviation)"
            f"{'; ≤ an upper bound, nothing was repeated yet' if bound else ''}. "
            f"Learned from {_learned(part)}."
        )
    if part.full:
        from archer.rules import REFERENCE

        notes.append(
            f"No room above {REFERENCE} on {', '.join(part.full)}: it is within the margin of 1 in every "
            f"setting and seed, so better on all six cannot be reached under {part.name}."
        )
    for rule, settings in part.stood_in.items():
        notes.append(
            f"{rule} computes what its parent computes in {', '.join(settings)}: its parent's runs count."
        )
    for row in part.rows:
        if row.missing:
            notes.append(f"Missing for {_label(row, part.rows)}: {_missing(row)}.")
    return notes


# One line per run


def _show_runs(runs: Sequence[RunRecord], csv: str | None, as_json: bool) -> None:
    if csv is not None:
        write_text(csv, _runs_csv(runs))
    elif as_json:
        from dataclasses import asdict

        print_json([asdict(run) for run in runs])
    else:
        console = results()
        console.print(_runs_table(runs, console))


def _runs_csv(runs: Sequence[RunRecord]) -> str:
    """The text that `archer.ledger.write_runs` writes."""
    from tempfile import TemporaryDirectory

    from archer.ledger import write_runs

    with TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        write_runs(path, runs)
        return path.read_text(encoding="utf-8")


def _runs_table(runs: Sequence[RunRecord], console: Console) -> RenderableType:
    from archer.ledger.records import TASKS
    from archer.report.numbers import rate, score

    grid = plain_table(console.width, many=True)
    grid.add_column("Rule", no_wrap=True)
    grid.add_column("Setting", overflow="fold")
    for heading in ("Rate", "Decay", "Seed", "Held-out", "MAD", "Epochs"):
        grid.add_column(heading, justify="right", no_wrap=True)
    places = {task: number for number, task in enumerate(TASKS)}
    versions = {(run.rule, run.rule_hash): run for run in runs}.values()

    def place(run: RunRecord) -> tuple[Any, ...]:
        return (run.preset, run.rule, run.rule_hash, places[run.task], run.setting, run.seed)

    for run in sorted(runs, key=place):
        point = (rate(run.learning_rate), rate(run.weight_decay), str(run.seed))
        scores = (score(run.held_out, run.status), score(run.mad, ABSENT))
        grid.add_row(folded(_label(run, versions)), run.setting, *point, *scores, str(run.epochs))
    finished = sum(run.status == "finished" for run in runs)
    return titled(f"{len(runs)} runs, {finished} finished", grid)
