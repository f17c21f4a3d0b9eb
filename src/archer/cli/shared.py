"""What the commands that read have in common: opening a project, choosing runs, numbers, tables, CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
"""From this width on headings stand on one line and columns are set further apart."""

ProjectOption = Annotated[Path, typer.Option("--project", "-p", help="The project folder.")]
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


def presets_of(runs: Iterable[RunRecord], wanted: str | None, folder: Path) -> tuple[str, ...]:
    """The presets of which there are runs, the one trained last at the end; or the wanted one alone.

    Raises UserError for a preset without runs, and where there are no runs at all.
    """
    last = {run.preset: "" for run in runs}
    for run in runs:
        last[run.preset] = max(last[run.preset], run.finished_at)
    if not last:
        raise UserError(f"'{folder}' has no runs yet: `archer run` or `archer bench RULE...` makes them")
    if wanted is None:
        return tuple(sorted(last, key=lambda preset: (last[preset], preset)))
    from archer.mad.presets import PRESETS

    if wanted in PRESETS and wanted not in last:
        raise UserError(f"no runs of preset '{wanted}' in '{folder}'; there are runs of: {', '.join(last)}")
    if wanted not in last:
        raise unknown("preset", wanted, last)
    return (wanted,)


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
    """One right-aligned column per task; below ROOMY a name stands on two lines."""
    from rich.text import Text

    for name in names:
        heading = name if width >= ROOMY else name.replace(" ", "\n")
        table.add_column(Text(heading), justify="right", no_wrap=True)


def folded(name: str, width: int = NAME_WIDTH) -> str:
    """A long name on several lines, broken after a mark between words where it has one in time."""
    lines, rest = [], name
    while len(rest) > width:
        cut = max(rest.rfind(mark, 0, width) for mark in "_+=-, ") + 1 or width
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:]
    return "\n".join([*lines, rest])


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


SettingPair = tuple[str, str]
"""Task and setting."""


def same_function(ledger: Ledger, runs: Sequence[RunRecord]) -> Callable[[str, str], frozenset[SettingPair]]:
    """(rule, rule) -> the settings of the runs in which both compute the same function, by verification.

    Each rule is traced to its ancestors; two that agree with a common ancestor in a setting agree with each
    other. What a rule's verification found is taken from the ledger; where it has none, a built-in rule
    whose text was not changed since is verified now. Unknown counts as different.
    """
    links = _Links(ledger, runs)

    def both(first: str, second: str) -> frozenset[SettingPair]:
        ours, theirs = links.equal_to(first), links.equal_to(second)
        common = [name for name in ours if name in theirs]
        return frozenset().union(*(ours[name] & theirs[name] for name in common)) if common else frozenset()

    return both


class _Links:
    """In which settings every rule is the same function as each of its ancestors."""

    def __init__(self, ledger: Ledger, runs: Sequence[RunRecord]) -> None:
        self.ledger = ledger
        self.settings = {(run.task, run.setting): run for run in runs}
        self.hashes = {run.rule: run.rule_hash for run in sorted(runs, key=lambda run: run.finished_at)}
        self.found: dict[str, dict[str, frozenset[SettingPair]]] = {}

    def equal_to(self, rule: str) -> dict[str, frozenset[SettingPair]]:
        """Ancestor (the rule itself included) to the settings in which the two are one function."""
        if rule not in self.found:
            equal = {rule: frozenset(self.settings)}
            parent = self._parent(rule)
            if parent and parent != rule:
                link = self._unreached(rule, parent)
                above = self.equal_to(parent)
                equal |= {name: link & settings for name, settings in above.items()}
            self.found[rule] = equal
        return self.found[rule]

    def _parent(self, rule: str) -> str | None:
        kept = self.ledger.source(self.hashes[rule]) if rule in self.hashes else None
        if kept is not None and kept.parent:
            return kept.parent
        proposals = self.ledger.proposals(rule=rule)
        return proposals[-1].parent if proposals else _built_in_parent(rule)

    def _unreached(self, rule: str, parent: str) -> frozenset[SettingPair]:
        found = self.ledger.verifications(rule=rule, rule_hash=self.hashes.get(rule))
        reaches = [one.reach for one in found if one.reach is not None]
        if reaches:
            return frozenset(pair for pair in self.settings if pair[1] not in reaches[-1])
        return self._verified_now(rule, parent)

    def _verified_now(self, rule: str, parent: str) -> frozenset[SettingPair]:
        from archer.rules import get_rule, rule_names
        from archer.verify import reach

        names = {rule, parent}
        unchanged = all(self.hashes.get(name, get_rule(name).hash) == get_rule(name).hash
                        for name in names & set(rule_names()))  # fmt: skip
        if not names <= set(rule_names()) or not unchanged:
            return frozenset()
        shapes = {pair: shape for pair, run in self.settings.items() if (shape := _shape(run))}
        equal: set[SettingPair] = set()
        for chunk in {chunk for _, chunk in shapes.values()}:
            lengths = sorted({length for length, other in shapes.values() if other == chunk})
            reached = set(reach(get_rule(rule), get_rule(parent), lengths, chunk))
            fits = {
                pair for pair, (length, other) in shapes.items() if other == chunk and length not in reached
            }
            equal |= fits
        return frozenset(equal)


def _built_in_parent(rule: str) -> str | None:
    from archer.rules import get_rule, rule_names

    return get_rule(rule).parent if rule in rule_names() else None


def _shape(run: RunRecord) -> tuple[int, int] | None:
    """(length that the model read, chunk size) as the run says they were; None where it does not."""
    from archer.mad.settings import Setting, SettingError

    setting, recipe = run.effective.get("setting"), run.effective.get("recipe")
    if not isinstance(setting, dict) or not isinstance(recipe, dict) or "chunk_size" not in recipe:
        return None
    try:
        return Setting(**setting).input_length, int(recipe["chunk_size"])
    except (TypeError, SettingError):  # a setting in the words of another version of Archer
        return None
