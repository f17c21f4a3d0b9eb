"""`archer calibration`: what each researcher's predictions were worth."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_json, results
from archer.cli.shared import (
    ABSENT,
    DEFAULT_PROJECT,
    CsvOption,
    JsonOption,
    ProjectOption,
    folded,
    one_of,
    open_project,
    plain_table,
    titled,
    write_csv,
)
from archer.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from archer.judge.predictions import TrackRow

LEGEND = (
    "Covered: outcomes inside the predicted 90% interval; a calibrated researcher has 90%.",
    "CRPS: distance of prediction and outcome in units of the score, 0 is best; beside it what predicting "
    "the parent's own score would have had, give or take the noise.",
    "Sign: changes of which the direction was right. Widen: the factor that its next intervals get.",
)

SHARES = "Of a budget that these researchers divide, their records earn: {}."


def command(
    project: ProjectOption = DEFAULT_PROJECT,
    researcher: Annotated[
        str | None, typer.Option("--researcher", metavar="NAME", help="One researcher alone.")
    ] = None,
    csv: CsvOption = None,
    as_json: JsonOption = False,
) -> None:
    """What each researcher's predictions were worth.

    Coverage, error and sign, by researcher and task; the next predictions are widened by it, and it decides
    each researcher's share of a budget that several divide (there, only verdicts of presets that rank count).

    \b
    Examples: archer calibration
              archer calibration --project archer-project --json
    """
    one_of(("--json", as_json), ("--csv", csv is not None))
    from archer.judge import standings, track_record

    with open_project(project) as ledger:
        verdicts, proposals = ledger.verdicts(), ledger.proposals()
    rows = track_record(verdicts, proposals)
    ranked = track_record([verdict for verdict in verdicts if verdict.ranks], proposals)
    if not rows:
        raise UserError(
            f"'{project}' has no prediction with an outcome yet: `archer run` makes and scores them"
        )
    known = {row.researcher for row in rows}
    if researcher is not None and researcher not in known:
        raise unknown("researcher", researcher, known)
    earned = standings(ranked, (row.researcher for row in rows))
    rows = tuple(row for row in rows if researcher in (None, row.researcher))
    shares = {one.researcher: one.share for one in earned}
    values = [{**_values(row), "share": shares[row.researcher]} for row in rows]
    if csv is not None:
        header = [name for name in values[0] if name != "ratios"]
        write_csv(csv, header, [[value[name] for name in header] for value in values])
    elif as_json:
        print_json(values)
    else:
        console = results()
        listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        notes = (*LEGEND, SHARES.format(listed)) if ranked and len(shares) > 1 else LEGEND
        console.print(_table(rows, console, notes))


def _values(row: TrackRow) -> dict[str, Any]:
    """The row for a machine; an infinite ratio (an interval of no width) is None, since JSON has none."""
    from archer.judge import widening

    ratios = [ratio if math.isfinite(ratio) else None for ratio in row.ratios]
    return {**asdict(row), "ratios": ratios, "widening": widening(row.ratios)}


def _table(rows: tuple[TrackRow, ...], console: Console, notes: tuple[str, ...]) -> RenderableType:
    from archer.judge import widening

    grid = plain_table(console.width)
    grid.add_column("Researcher", no_wrap=True)
    grid.add_column("Task", no_wrap=True)
    for heading in ("n", "Covered", "CRPS", "Parent's", "Sign", "Widen"):
        grid.add_column(heading, justify="right", no_wrap=True)
    before = rows[0].researcher
    for row in rows:
        if row.researcher != before:
            grid.add_section()
        first = row is rows[0] or row.researcher != before
        before = row.researcher
        parents = ABSENT if row.baseline_crps is None else f"{row.baseline_crps:.3f}"
        own = row.mean_crps if row.compared_crps is None else row.compared_crps
        sign = ABSENT if row.sign_rate is None else f"{row.sign_rate:.0%}"
        numbers = (str(row.n), f"{row.coverage:.0%}", f"{own:.3f}", parents, sign)
        style = "bold" if row.task == "All" else ""
        name = folded(row.researcher, 20) if first else ""
        grid.add_row(name, row.task, *numbers, f"× {widening(row.ratios):.2f}", style=style)
    return titled("Predictions and what came of them", grid, *notes)
