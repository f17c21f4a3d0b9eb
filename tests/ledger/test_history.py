from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archer.ledger.history import ALIASES, HistoryRow, builtin_history, published_table, read_table
from archer.ledger.problems import TableError
from archer.ledger.records import TASKS

HEADER = "model," + ",".join(TASKS)
ROW = "a,0.1,0.2,0.3,0.4,0.5,0.6"
SCORES: dict[str, float] = dict(zip(TASKS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True))


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_built_in_tables() -> None:
    tables = {table.name: table for table in builtin_history()}
    assert {name: len(table.rows) for name, table in tables.items()} == {
        "fifteen_trials": 16,
        "five_trials": 7,
        "momentum_trial": 3,
        "2025-06-13_softmax_proposal": 4,
        "2025-06-16_second_protocol": 6,
    }
    assert [name for name, table in tables.items() if table.notes] == ["2025-06-16_second_protocol"]
    last = tables["momentum_trial"].rows[-1]
    assert last.model == "gated_delta_net_4layer"
    assert last.scores["Fuzzy Recall"] == 0.310357


def test_the_published_table() -> None:
    table = published_table()
    assert table.rows[-1] == HistoryRow(
        "DeltaNet", dict(zip(TASKS, (0.422, 1.0, 0.357, 0.528, 1.0, 1.0), strict=True))
    )
    assert (len(table.rows), table.notes) == (6, ())


# Any form in which a table is written reads back as the same table


def names() -> st.SearchStrategy[str]:
    letters = st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs"), whitelist_characters=" ")
    wanted = st.text(letters, min_size=1, max_size=20).filter(lambda name: name == name.strip())
    return wanted.filter(lambda name: not re.match(r"\d+(\s|$)", name))


TABLES = st.dictionaries(
    names(), st.lists(st.floats(0, 1, allow_subnormal=False), min_size=6, max_size=6), min_size=1, max_size=4
)


def spelled(draw: st.DrawFn, task: str) -> str:
    name = draw(st.sampled_from(ALIASES[task])).replace(" ", draw(st.sampled_from(" -_")))
    return draw(st.sampled_from([name, name.upper(), name.title()]))


def joined(rows: list[list[str]], separator: str) -> list[str]:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows[1:])
    header = separator.join(f'"{name}"' if separator in name else name for name in rows[0])
    return [header, *buffer.getvalue().splitlines()]


def aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def quoted(name: str) -> str:
    """In an aligned table quotes are needed only where the name begins with a mark."""
    return name if name[0].isalnum() else '"' + name.replace('"', '""') + '"'


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, dict[str, list[float]]]:
    """A file, and the model names and scores, in the order of TASKS, that it holds."""
    table = draw(TABLES)
    separator = draw(st.sampled_from([",", ";", "\t", "aligned"]))
    order = draw(st.permutations(range(6)))
    decimal = draw(st.sampled_from(".,")) if separator != "," else "."
    first = draw(st.sampled_from(["model", "Unnamed: 0", ""]))
    rows = [[first, *(spelled(draw, TASKS[index]) for index in order)]]
    for model, scores in table.items():
        rows.append([model, *(repr(scores[index]).replace(".", decimal) for index in order)])
    if draw(st.booleans()):
        rows[0].append(draw(st.sampled_from(["Mean", "average", "AVG"])))
        for row, scores in zip(rows[1:], table.values(), strict=True):
            row.append(f"{math.fsum(scores) / 6:.3f}")
    if draw(st.booleans()):
        rows = [[index, *row] for index, row in zip(["", *map(str, range(len(table)))], rows, strict=True)]
    if separator == "aligned":
        rows = [[quoted(cell) if cell in table else cell for cell in row] for row in rows]
        lines = aligned(rows)
    else:
        lines = joined(rows, separator)
    if draw(st.booleans()):
        lines = ["# a comment", "", *lines, "  # another, with 0.5"]
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return (ending.join(lines) + draw(st.sampled_from(["", ending]))).encode(encoding), table


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files())
def test_any_form_reads_back(tmp_path: Path, file: tuple[bytes, dict[str, list[float]]]) -> None:
    content, table = file
    path = tmp_path / "table"
    path.write_bytes(content)
    read = read_table(path)
    assert {row.model: list(row.scores.values()) for row in read.rows} == table
    assert [row.model for row in read.rows] == list(table)
    assert all(tuple(row.scores) == TASKS for row in read.rows)
    assert read.notes == ()


@pytest.mark.parametrize("index", [None, "model", "Unnamed: 0"])
def test_what_pandas_prints(tmp_path: Path, index: str | None) -> None:
    (table, *_) = builtin_history()
    frame = pandas.DataFrame([{index or "model": row.model, **row.scores} for row in table.rows])
    frame["Mean"] = frame[list(TASKS)].mean(axis=1)
    if index:
        frame = frame.set_index(index)
    path = tmp_path / "printed.txt"
    for text in (frame.to_string(), frame.to_csv()):
        path.write_text(text)
        assert (read_table(path).rows, read_table(path).notes) == (table.rows, ())


@pytest.mark.parametrize(
    "lines",
    [
        (HEADER, ROW, ROW),
        (HEADER + ",", ROW + ",", ",,,,,,,"),
        (HEADER + ",source", ROW + ',"x, y"'),
        ("index," + HEADER, "0," + ROW),
        (HEADER.replace(",", " , "), ROW.replace(",", " ,  ")),
        (HEADER, ROW.replace("0.1", "1e-1").replace("0.2", ".2").replace("0.3", "+0.30")),
    ],
)
def test_accepted_beside_the_plain_form(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert read_table(write(tmp_path, *lines)).rows == (HistoryRow("a", SCORES),)


def test_a_mean_that_does_not_agree_is_noted(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, HEADER + ",Mean", ROW + ",0.35", "b" + ROW[1:] + ",0.45"))
    assert table.notes == ("line 3: 'Mean' is 0.45, the mean of the six scores is 0.3500",)


# What cannot be read is refused, with its place

BAD = [
    ([HEADER, ROW.replace("0.3", "good")], "line 2, column 'Fuzzy Recall': 'good' is not a number"),
    (
        [HEADER, ROW, "b" + ROW[1:].replace("0.6", "1.5")],
        "line 3, column 'Selective Copy': 1.5 is above 1: ",
    ),
    ([HEADER, ROW.replace("0.6", "44.1")], "44.1 is above 1: .* if it is in percent, divide it by 100"),
    ([HEADER, ROW.replace("0.6", '"0,6"')], "'0,6' is not a number"),  # the comma separates columns here
    ([HEADER, ROW.replace("0.6", "100")], "100 is above 1: .* if it is in percent, divide it by 100"),
    ([HEADER, ROW.replace("0.6", "44%")], "'44%' is a percentage: .*divide the column by 100"),
    ([HEADER, ROW.replace("0.6", "-0.1")], "-0.1 is out of range: expected a score from 0 to 1"),
    ([HEADER, ROW.replace("0.6", "1e300")], "1e300 is out of range"),
    ([HEADER, ROW.replace("0.6", "NaN")], "'NaN' is no score: .*leave out a model that has none"),
    ([HEADER, ROW.replace("0.6", "-inf")], "'-inf' is no score"),
    ([HEADER, ROW.replace("0.6", "")], "column 'Selective Copy': '' is no score"),
    ([HEADER, ROW.replace("0.6", "1_0")], "'1_0' is not a number"),
    ([HEADER, ROW.replace("0.6", "٠")], "'٠' is not a number"),
    (
        [HEADER, ROW, "# x", ROW.replace("0.3", "0.31")],
        "lines 2 and 4, column 'Fuzzy Recall': 'a' stands",
    ),
    ([HEADER.replace(",Memorize", ""), ROW], "line 1: missing task column 'Memorize'"),
    (
        [HEADER.replace("Memorize", "Memorice"), ROW],
        "column 'Memorize'; is 'Memorice' meant for 'Memorize'",
    ),
    ([HEADER + ",compression", ROW + ",0.1"], "columns 'Compress' and 'compression' both are Compress"),
    ([HEADER], "no rows after the header, line 1"),
    ([HEADER.replace(",", ";")], "no rows"),
    ([HEADER, ROW + ",0.7"], "line 2: 8 columns, but the header has 7"),
    ([HEADER, ROW[:-4]], "line 2: 6 columns, but the header has 7"),
    ([HEADER, ROW[1:]], "line 2, column 1: the model's name is missing"),
    ([HEADER, '"a' + ROW[1:]], "line 2: the quotes do not match"),
    ([HEADER, "0" + ROW[1:], "1" + ROW[1:]], "line 2, column 1: '0' is a row number: expected a column with"),
    ([HEADER[6:], ROW[2:]], "line 1, column 1 is Compress: expected the models' names there"),
    ([HEADER.replace(",", "  "), ROW[:-4].replace(",", "  ")], "line 2: 6 words, but the header asks for"),
    (["Dear reader,", "this is a letter."], "missing task columns 'Compress', .*; found 'Dear reader', ''"),
    ([""], "table.csv is empty: expected a header with 'Compress'"),
    (["# only a comment"], "is empty"),
]


@pytest.mark.parametrize(("lines", "message"), BAD)
def test_bad_tables(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(TableError, match=message) as refused:
        read_table(path)
    assert str(path) in str(refused.value)


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="is a folder, not a table"):
        read_table(tmp_path)
    with pytest.raises(TableError, match="there is no folder"):
        read_table(tmp_path / "absent" / "table.csv")
    with pytest.raises(TableError, match=r"/table\.csv does not exist; there is no table beside it$"):
        read_table(tmp_path / "table.csv")
    path = tmp_path / "history.csv"
    for content in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"model\0\0"):
        path.write_bytes(content)
        with pytest.raises(TableError, match="is not a table"):
            read_table(path)
    with pytest.raises(TableError, match=r"histroy.csv does not exist; nearest in .*: history.csv"):
        read_table(tmp_path / "histroy.csv")
    path.write_bytes(b"#" * (16 * 2**20 + 1))
    with pytest.raises(TableError, match="larger than 16 MiB"):
        read_table(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=200), files().map(lambda file: file[0])),
    st.integers(0, 200),
    st.binary(max_size=3),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, place: int, change: bytes) -> None:
    path = tmp_path / "table"
    path.write_bytes(content[:place] + change + content[place + 1 :])
    try:
        table = read_table(path)
    except TableError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert all(0 <= score <= 1 for row in table.rows for score in row.scores.values())
