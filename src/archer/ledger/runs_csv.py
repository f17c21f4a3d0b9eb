"""Runs as CSV, for reading, for plotting elsewhere, and for keeping in git.

One line per run in a fixed order, numbers written so that they read back exactly: the same runs give the same
file, byte for byte. Curves, settings and package versions stay in the ledger.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archer.ledger.codec import to_json
from archer.ledger.problems import LedgerError, TableError
from archer.ledger.records import TASKS, RunRecord

if TYPE_CHECKING:
    from archer.ledger.store import Ledger


def _number_or_none(text: str) -> float | None:
    return float(text) if text else None


COLUMNS: dict[str, Callable[[str], Any]] = {
    "rule": str,
    "rule_hash": str,
    "task": str,
    "setting": str,
    "learning_rate": float,
    "weight_decay": float,
    "seed": int,
    "preset": str,
    "status": str,
    "mad": _number_or_none,
    "held_out": _number_or_none,
    "validation": _number_or_none,
    "epochs": int,
    "parameters": int,
    "wall_seconds": float,
    "device": str,
    "revision": str,
    "key": str,
    "finished_at": str,
    "message": str,
}
"""Column to what reads its text, in the order of the file."""


def write_runs(path: str | Path, runs: Iterable[RunRecord]) -> None:
    """Write the runs as CSV: the whole file or, where that fails, what was there before.

    Raises:
        LedgerError: where the file cannot be written, or a run does not fit its form.
    """
    lines = [",".join(COLUMNS)]
    for run in sorted(runs, key=_order):
        to_json(run)
        lines.append(",".join(_cell(getattr(run, name)) for name in COLUMNS))
    _replace(Path(path), "\n".join(lines) + "\n")


def read_runs(path: str | Path) -> tuple[RunRecord, ...]:
    """The runs of a file that `write_runs` wrote; without curves, settings and package versions.

    Raises:
        TableError: naming the file, the line and the column.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not text'}"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_header(header, path)
        return tuple(_run(header, cells, f"{path}, line {reader.line_num}") for cells in reader if cells)
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: not a line of CSV ({error})") from error


def import_runs(ledger: Ledger, path: str | Path) -> int:
    """Keep the runs of a CSV file; returns how many were new. Once or twice gives the same ledger."""
    return sum(ledger.add_runs(read_runs(path)))


def _order(run: RunRecord) -> tuple[Any, ...]:
    task = TASKS.index(run.task) if run.task in TASKS else len(TASKS)
    point = (run.setting, run.learning_rate, run.weight_decay, run.seed)
    return (run.rule, run.rule_hash, run.preset, task, run.task, *point, run.key)


def _cell(value: Any) -> str:
    """The shortest text that reads back as the same value, quoted where it must be."""
    if value is None:
        return ""
    text = repr(float(value)) if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if re.search('[",\r\n]', text) else text


def _replace(path: Path, text: str) -> None:
    """Write beside the file, then put it in its place in one step."""
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error.strerror}; it is as it was before") from error


def _check_header(header: list[str], path: Path) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing or len(set(header)) != len(header):
        names = ", ".join(map(repr, missing))
        problem = f"missing column {names}" if missing else "a column stands there twice"
        if len(missing) == len(COLUMNS):
            problem = "no column of a table of runs (`archer table --runs --csv FILE` writes one)"
        raise TableError(f"{path}, line 1: {problem}; expected {', '.join(COLUMNS)}")


def _run(header: list[str], cells: list[str], place: str) -> RunRecord:
    if len(cells) != len(header):
        raise TableError(f"{place}: {len(cells)} columns, but the header has {len(header)}")
    values = {}
    for name, text in zip(header, cells, strict=True):
        if name not in COLUMNS:
            continue
        try:
            values[name] = COLUMNS[name](text)
        except ValueError as error:
            raise TableError(f"{place}, column '{name}': '{text}' is not a number") from error
    run = RunRecord(**values)
    try:
        to_json(run)
    except LedgerError as error:
        raise TableError(f"{place}: {error}") from error
    return run
