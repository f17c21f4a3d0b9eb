"""Tables of what was tried before: one model a line, its six MAD scores.

A table may come as commas, semicolons, tabs or aligned by spaces (as pandas prints one), its columns in any
order and under their usual names. What cannot be read with certainty is refused with its file, line and
column: a score that was guessed would mislead every proposal that is built on it.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from archer.ledger.problems import TableError
from archer.ledger.records import TASKS

FOLDER = Path(__file__).parent / "history"
"""The tables that travel with the package."""

BUILTIN = (
    "fifteen_trials",
    "five_trials",
    "momentum_trial",
    "2025-06-13_softmax_proposal",
    "2025-06-16_second_protocol",
)

NOTES = {
    "2025-06-16_second_protocol": "Trained under another protocol: compare its rows with each other only.",
}
"""What a reader must know of a built-in table."""

ALIASES = {
    "Compress": ("compress", "compression"),
    "Context Recall": ("context recall", "in context recall"),
    "Fuzzy Recall": ("fuzzy recall", "fuzzy in context recall"),
    "Memorize": ("memorize", "memorise", "memorization", "memorisation"),
    "Noisy Recall": ("noisy recall", "noisy in context recall"),
    "Selective Copy": ("selective copy", "selective copying"),
}
"""What a task's column may be called, in lower case; a space stands for a space, hyphen or underscore."""

MEANS = ("mean", "average", "avg", "mean score", "average score")

LIMIT_BYTES = 16 * 2**20

_TASK_OF = {alias: task for task, aliases in ALIASES.items() for alias in aliases}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_ALIGNED = re.compile(
    r"(?<!\S)(?:" + "|".join(re.sub(" ", "[ _-]", alias) for alias in _TASK_OF) + r")(?!\S)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class HistoryRow:
    """One model and its score, a fraction from 0 to 1, on each of the six tasks."""

    model: str
    scores: dict[str, float]


@dataclass(frozen=True)
class HistoryTable:
    """One table of earlier trials. notes: what a reader must know of it, in words."""

    name: str
    path: Path
    rows: tuple[HistoryRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    """A line that is neither empty nor a comment, and its number in the file."""

    number: int
    text: str


@dataclass(frozen=True)
class _Form:
    """How the lines are cut. separator: one character, or "" for a table aligned by spaces."""

    separator: str
    header: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """One line, cut: the cells under the header."""

    number: int
    cells: tuple[str, ...]


def builtin_history() -> tuple[HistoryTable, ...]:
    """The five tables of earlier trials that travel with the package."""
    return tuple(read_table(FOLDER / f"{name}.csv") for name in BUILTIN)


def published_table() -> HistoryTable:
    """Published scores of other models (Yang 2024, arXiv:2406.06484; Poli 2024, arXiv:2403.17844)."""
    return read_table(FOLDER / "published_mad.csv")


def read_table(path: str | Path) -> HistoryTable:
    """Read a table of scores: a column of model names, then the six tasks in any order.

    Accepted beside them: a leading column of row numbers, a mean (not used; a note says where it does not
    agree), other columns (ignored), comment lines (#), a byte order mark, quoted names, and, where the
    separator is not a comma, a decimal comma.

    Raises:
        TableError: naming the file, the line and the column, what arrived and what was expected.
    """
    path = Path(path)
    lines = _lines(path)
    form = _form(lines[0], path)
    tasks = _task_columns(form, lines[0], path)
    entries = _without_row_numbers(list(_entries(form, lines[1:], path)), form, tasks)
    if not entries:
        raise TableError(f"{path}: no rows after the header, line {lines[0].number}: expected one per model")
    _check_names(entries, path)
    rows: dict[str, tuple[int, HistoryRow]] = {}
    notes = [NOTES[path.stem]] if path.parent == FOLDER and path.stem in NOTES else []
    for entry in entries:
        row = _row(entry, form, tasks, path)
        _check_repeated(row, entry.number, rows, path)
        rows.setdefault(row.model, (entry.number, row))
        notes += _mean_notes(entry, form, row)
    return HistoryTable(path.stem, path, tuple(row for _, row in rows.values()), tuple(notes))


# From a file to lines


def _lines(path: Path) -> list[_Line]:
    text = _text(_bytes(path), path)
    numbered = [_Line(number, line) for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1)]
    lines = [line for line in numbered if line.text.strip() and not line.text.lstrip().startswith("#")]
    if not lines:
        raise TableError(f"{path} is empty: expected a header with {_listed(TASKS)}, and one line per model")
    return lines


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise TableError(f"{path} is a folder, not a table: give one of the files in it")
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist{_nearest_file(path)}") from error
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > LIMIT_BYTES:
        raise TableError(f"{path} is larger than {LIMIT_BYTES // 2**20} MiB: that is no table of scores")
    return content


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    near = get_close_matches(path.name, names, n=3, cutoff=0.5)
    near = near or sorted(name for name in names if name.endswith((".csv", ".tsv")))[:5]
    return f"; nearest in {path.parent}: {', '.join(near)}" if near else "; there is no table beside it"


def _text(content: bytes, path: Path) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not a table: byte {error.start + 1} is no {encoding} text") from error
    if "\0" in text:
        raise TableError(f"{path} is not a table: it holds binary data")
    return text


# From lines to cells


def _task_of(name: str) -> str | None:
    return _TASK_OF.get(re.sub(r"[\s_-]+", " ", name).strip().lower())


def _is_mean(name: str) -> bool:
    return re.sub(r"[\s_-]+", " ", name).strip().lower() in MEANS


def _form(header: _Line, path: Path) -> _Form:
    """The form in which the header shows most tasks."""
    forms = [_Form(mark, tuple(_cut(header, mark, path))) for mark in (",", ";", "\t") if mark in header.text]
    forms.append(_Form("", tuple(_aligned_header(header.text))))
    return max(forms, key=lambda form: sum(_task_of(name) is not None for name in form.header))


def _cut(line: _Line, separator: str, path: Path) -> list[str]:
    try:
        (cells,) = csv.reader([line.text], delimiter=separator, skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise TableError(f"{path}, line {line.number}: the quotes do not match ({error})") from error
    return [cell.strip() for cell in cells]


def _aligned_header(text: str) -> list[str]:
    """The names of an aligned header; task names hold single spaces, other columns stand two spaces apart."""
    matches = list(_ALIGNED.finditer(text))
    if not matches:
        return text.split()
    names = [text[: matches[0].start()].strip()]
    ends = [*(match.start() for match in matches[1:]), len(text)]
    for match, end in zip(matches, ends, strict=True):
        names += [match.group(), *re.split(r"\s{2,}", text[match.end() : end].strip())]
    return [names[0], *(name for name in names[1:] if name)]


def _task_columns(form: _Form, header: _Line, path: Path) -> dict[str, int]:
    """Task to its column."""
    place, columns = f"{path}, line {header.number}", {}
    for index, name in enumerate(form.header):
        task = _task_of(name)
        if task in columns:
            first = form.header[columns[task]]
            raise TableError(f"{place}: columns '{first}' and '{name}' both are {task}; keep one")
        if task is not None:
            columns[task] = index
    missing = [task for task in TASKS if task not in columns]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise TableError(
            f"{place}: missing task column{plural} {_listed(missing)}{_misspelt(missing, form.header)}. "
            f"Expected the model's name, then {_listed(TASKS)}; found {_listed(form.header) or 'nothing'}"
        )
    if columns and min(columns.values()) == 0:
        raise TableError(f"{place}, column 1 is {form.header[0]}: expected the models' names there")
    return columns


def _misspelt(missing: list[str], header: tuple[str, ...]) -> str:
    others = {name.lower(): name for name in header if _task_of(name) is None}
    near = {task: get_close_matches(task.lower(), others, n=1, cutoff=0.7) for task in missing}
    return "".join(f"; is '{others[names[0]]}' meant for '{task}'?" for task, names in near.items() if names)


def _entries(form: _Form, lines: list[_Line], path: Path) -> Iterator[_Entry]:
    for index, line in enumerate(lines):
        if form.separator:
            cells = _cut(line, form.separator, path)
            if any(cells):
                yield _Entry(line.number, _fitted(cells, form, line, path))
        elif index or not _names_the_index(line.text, form):
            yield _Entry(line.number, _aligned_cells(line, form, path))


def _fitted(cells: list[str], form: _Form, line: _Line, path: Path) -> tuple[str, ...]:
    width = len(form.header)
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    if len(cells) != width:
        raise TableError(
            f"{path}, line {line.number}: {len(cells)} columns, but the header has {width}; "
            "put quotes around a name that holds the separator"
        )
    return tuple(cells)


def _names_the_index(text: str, form: _Form) -> bool:
    """Pandas prints the index's name on a line of its own, under a header whose first column is blank."""
    no_scores = not re.search(r"\d\.\d", text)
    return form.header[0] == "" and no_scores and len(text.split()) < len(form.header) - 1


def _aligned_cells(line: _Line, form: _Form, path: Path) -> tuple[str, ...]:
    """The last words are the numbers; what stands before them is the name, which may hold spaces."""
    words, width = line.text.split(), len(form.header) - 1
    if len(words) <= width:
        raise TableError(
            f"{path}, line {line.number}: {len(words)} words, but the header asks for a model's name and "
            f"{width} numbers ({_listed(form.header[1:])}); join a table that was printed in parts"
        )
    name = re.match(r"\s*(\S+(?:\s+\S+)*)\s*$", line.text.rstrip().rsplit(maxsplit=width)[0])
    return (_unquoted(name.group(1) if name else ""), *words[-width:])


def _unquoted(name: str) -> str:
    quoted = len(name) > 1 and name[0] == name[-1] == '"'
    return name[1:-1].replace('""', '"') if quoted else name


def _without_row_numbers(entries: list[_Entry], form: _Form, tasks: dict[str, int]) -> list[_Entry]:
    """The same entries with the model's name in the first cell, where row numbers stood before it."""
    if form.separator:
        numbered = min(tasks.values()) > 1 and all(_is_integer(entry.cells[0]) for entry in entries)
        names = [entry.cells[1] for entry in entries] if numbered else []
    else:
        parts = [entry.cells[0].split(maxsplit=1) for entry in entries]
        numbered = all(len(part) == 2 and _is_integer(part[0]) for part in parts)
        names = [_unquoted(part[1]) for part in parts] if numbered else []
    if not numbered:
        return entries
    return [
        _Entry(entry.number, (name, *entry.cells[1:])) for entry, name in zip(entries, names, strict=True)
    ]


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdigit()


# From cells to scores


def _check_names(entries: list[_Entry], path: Path) -> None:
    for entry in entries:
        if not entry.cells[0]:
            raise TableError(f"{path}, line {entry.number}, column 1: the model's name is missing")
    if all(_is_integer(entry.cells[0]) for entry in entries):
        raise TableError(
            f"{path}, line {entries[0].number}, column 1: '{entries[0].cells[0]}' is a row number: "
            "expected a column with the models' names"
        )


def _row(entry: _Entry, form: _Form, tasks: dict[str, int], path: Path) -> HistoryRow:
    place = f"{path}, line {entry.number}"
    scores = {
        task: _score(entry.cells[tasks[task]], form, f"{place}, column '{form.header[tasks[task]]}'")
        for task in TASKS
    }
    return HistoryRow(entry.cells[0], scores)


def _score(text: str, form: _Form, place: str) -> float:
    plain = text.replace(",", ".") if form.separator != "," and text.count(",") == 1 else text
    expected = "expected a score from 0 to 1"
    if not _NUMBER.fullmatch(plain):
        if plain.endswith("%"):
            raise TableError(f"{place}: '{text}' is a percentage: {expected}; divide the column by 100")
        if plain.lower().lstrip("+-") in ("", "nan", "inf", "infinity", "none", "na", "n/a", "null"):
            raise TableError(f"{place}: '{text}' is no score: {expected}; leave out a model that has none")
        raise TableError(f"{place}: '{text}' is not a number: {expected}")
    value = float(plain)
    if 1 < value <= 100:
        raise TableError(f"{place}: {text} is above 1: {expected}; if it is in percent, divide it by 100")
    if not 0 <= value <= 1:
        raise TableError(f"{place}: {text} is out of range: {expected}")
    return value


def _check_repeated(
    row: HistoryRow, number: int, rows: dict[str, tuple[int, HistoryRow]], path: Path
) -> None:
    if row.model not in rows:
        return
    first, other = rows[row.model]
    for task in TASKS:
        if row.scores[task] != other.scores[task]:
            raise TableError(
                f"{path}, lines {first} and {number}, column '{task}': '{row.model}' stands there twice with "
                f"different numbers, {other.scores[task]} and {row.scores[task]}: keep one or rename one"
            )


def _mean_notes(entry: _Entry, form: _Form, row: HistoryRow) -> list[str]:
    """A mean is not used, only held against the six scores, to three digits or as it was written."""
    notes, mean = [], math.fsum(row.scores.values()) / len(row.scores)
    for name, cell in zip(form.header, entry.cells, strict=True):
        plain = cell.replace(",", ".")
        if not _is_mean(name) or not _NUMBER.fullmatch(plain):
            continue
        digits = min(3, len(plain.partition(".")[2])) if "e" not in plain.lower() else 3
        if abs(float(plain) - mean) > 10.0**-digits:
            notes.append(f"line {entry.number}: '{name}' is {cell}, the mean of the six scores is {mean:.4f}")
    return notes


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
