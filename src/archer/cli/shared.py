"""What the commands that read have in common: opening a project, choosing runs, numbers, tables, CSV."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from archer.ledger import Ledger
    from archer.ledger.records import RunRecord

DEFAULT_PROJECT = Path("archer-project")
"""The project folder of every command that is told no other."""

ABSENT = "–"
"""What stands where there is no number. It is never 0."""

NAME_WIDTH = 16
"""Columns for a rule's name where seven columns of numbers must fit beside it into 80."""

ROOMY = 100
"""From this width on columns are set further apart."""

WIDE = 120
"""From this width on the six tasks and their mean fit beside a rule with each heading on one line."""

ProjectOption = Annotated[Path, typer.Option("--project", "-p", metavar="DIR", help="The project folder.")]
OrProjectOption = Annotated[
    Path | None,
    typer.Option("--project", "-p", metavar="DIR", help=f"The project folder. Default: {DEFAULT_PROJECT}."),
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="A CSV table of runs (results/*.csv) instead of a project."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
CsvOption = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Write CSV instead; - for standard output.")
]


@contextmanager
def open_project(folder: Path) -> Iterator[Ledger]:
    """The ledger of a project folder, for reading only.

    Raises UserError where there is none: it says what to run, and names projects that lie beside it.
    """
    from archer.ledger import LEDGER_NAME, Ledger

    if not (folder / LEDGER_NAME).exists():
        beside = sorted(path.parent for path in folder.absolute().parent.glob(f"*/{LEDGER_NAME}"))
        there = f" Projects there: {', '.join(path.name for path in beside)}." if beside else ""
        what = "is a file, not a project folder" if folder.is_file() else "holds no project"
        raise UserError(
            f"'{folder}' {what}: nothing has been measured there yet. "
            f"Run `archer run` first, or name another folder with --project.{there}"
        )
    with Ledger.in_folder(folder, read_only=True) as ledger:
        yield ledger


def project_rules(folder: Path) -> dict[str, str]:
    """Texts of the rules that a project has accepted, by name. Where there is none, nothing heavy is imported
    to say so."""
    from archer.ledger import LEDGER_NAME

    if not (folder / LEDGER_NAME).exists():
        return {}
    from archer.cycle.laboratory import accepted_in

    return accepted_in(folder)


def open_runs(project: Path | None, table: Path | None) -> AbstractContextManager[Ledger]:
    """The ledger of a project (the default one, unless named), or of a table of runs.

    Raises UserError where both are named.
    """
    if table is None:
        return open_project(project or DEFAULT_PROJECT)
    if project is not None:
        raise UserError(
            f"--from reads the runs of '{table}' and no project: leave out --project {project}, "
            "or leave out --from to read that project"
        )
    from archer.cycle.reading import table_ledger

    return table_ledger(table)


def presets_of(runs: Iterable[RunRecord], wanted: str | None, folder: Path) -> tuple[str, ...]:
    """The presets of which there are runs, the one trained last at the end; or the wanted one alone.

    Raises UserError for a preset without runs, and where there are no runs at all.
    """
    last = {run.preset: "" for run in runs}
    for run in runs:
        last[run.preset] = max(last[run.preset], run.finished_at)
    if not last:
        makes = "" if folder.is_file() else " yet: `archer run` or `archer bench RULE...` makes them"
        raise UserError(f"'{folder}' has no runs{makes}")
    if wanted is None:
        return tuple(sorted(last, key=lambda preset: (last[preset], preset)))
    if wanted in last:
        return (wanted,)
    from archer.mad.presets import PRESETS

    if wanted not in PRESETS:
        raise unknown("preset", wanted, {*last, *PRESETS})
    raise UserError(f"no runs of preset '{wanted}' in '{folder}'; there are runs of: {', '.join(last)}")


def latest_versions(runs: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The runs of each rule's newest file only: an edited rule is another rule under the same name."""
    newest: dict[str, tuple[str, str]] = {}
    for run in runs:
        newest[run.rule] = max(newest.get(run.rule, ("", "")), (run.finished_at, run.rule_hash))
    return tuple(run for run in runs if run.rule_hash == newest[run.rule][1])


def plain_table(width: int, many: bool = False) -> Table:
    """An empty table in the house's form, for a terminal of this many columns. many: set them close."""
    from rich import box
    from rich.table import Table

    return Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 2 if width >= ROOMY else int(not many), 0, 0),
        show_edge=False,
        pad_edge=False,
    )


def titled(title: str, body: RenderableType, *notes: str) -> RenderableType:
    """A bold line, the table, and what a reader must know of it, over the whole width of the terminal."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(title, style="bold"), body, *(Text(note, style="dim") for note in notes if note))


def add_task_columns(table: Table, names: Iterable[str], width: int) -> None:
    """One right-aligned column per task; below WIDE a name stands on two lines."""
    from rich.text import Text

    for name in names:
        heading = name if width >= WIDE else name.replace(" ", "\n")
        table.add_column(Text(heading), justify="right", no_wrap=True)


def name_width(width: int) -> int:
    """Columns for a rule's name beside the six tasks: NAME_WIDTH, and what a wide terminal leaves."""
    taken = WIDE if width >= WIDE else 96 if width >= ROOMY else 80
    return NAME_WIDTH + min(24, max(0, width - taken))


def folded(name: str, width: int = NAME_WIDTH) -> str:
    """A long name on several lines."""
    from archer.report.numbers import folded

    return folded(name, width)


def write_csv(target: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as CSV to a file, or to standard output for "-". None is an empty cell, never 0."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    write_text(target, buffer.getvalue())


def write_text(target: str, text: str) -> None:
    """A text to a file, whole or not at all, or to standard output for "-". Raises UserError."""
    if target == "-":
        sys.stdout.write(text)
        return
    path = Path(target)
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8", newline="")
        draft.replace(path)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror or error}") from error


def one_of(*given: tuple[str, bool]) -> None:
    """Refuse options that exclude each other: (name, whether it was given)."""
    found = [name for name, there in given if there]
    if len(found) > 1:
        raise UserError(f"{' and '.join(found)} exclude each other: give one of them")


def constructor_arguments(given: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE texts (--argument) as a dictionary; a value that is JSON is read as such, any other is a
    text. Raises UserError for what is neither."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--argument '{text}': expected NAME=VALUE, such as heads=4")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
