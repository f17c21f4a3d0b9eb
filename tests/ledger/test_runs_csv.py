from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archer.ledger.problems import LedgerError, TableError
from archer.ledger.records import TASKS, RunRecord
from archer.ledger.runs_csv import COLUMNS, import_runs, read_runs, write_runs
from archer.ledger.store import Ledger

TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12)
SCORE = st.floats(0, 1)


def bare(run: RunRecord) -> RunRecord:
    """What CSV keeps of a run."""
    return replace(run, curve=(), passed={}, effective={}, packages={})


@st.composite
def any_run(draw: st.DrawFn) -> RunRecord:
    status = draw(st.sampled_from(["finished", "diverged", "crashed"]))
    mad, held_out, validation = (draw(SCORE) if status == "finished" else None for _ in range(3))
    texts = {name: draw(TEXT) for name, read in COLUMNS.items() if read is str and name != "status"}
    counts = {name: draw(st.integers(0, 2**40)) for name, read in COLUMNS.items() if read is int}
    numbers = {name: draw(st.floats(0, 1e3)) for name, read in COLUMNS.items() if read is float}
    scores = {"status": status, "mad": mad, "held_out": held_out, "validation": validation}
    values: dict[str, Any] = texts | counts | numbers | scores | {"task": draw(st.sampled_from(TASKS))}
    return RunRecord(**values)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_run(), max_size=4, unique_by=lambda run: run.key))
def test_runs_read_back_exactly_and_in_a_fixed_order(tmp_path: Path, runs: list[RunRecord]) -> None:
    path, again = tmp_path / "runs.csv", tmp_path / "again.csv"
    write_runs(path, runs)
    assert sorted(read_runs(path), key=lambda run: run.key) == sorted(runs, key=lambda run: run.key)
    random.Random(0).shuffle(runs)
    write_runs(again, runs)
    assert path.read_bytes() == again.read_bytes()


def test_the_form_of_the_file(tmp_path: Path, examples: SimpleNamespace) -> None:
    path = tmp_path / "results" / "runs.csv"
    memorize = replace(examples.run, key="m", task="Memorize", message="")
    fast = replace(examples.diverged, key="f", learning_rate=1e-5, message="")
    write_runs(path, [memorize, fast])
    assert path.read_bytes().decode() == (
        "rule,rule_hash,task,setting,learning_rate,weight_decay,seed,preset,status,mad,held_out,validation,"
        "epochs,parameters,wall_seconds,device,revision,key,finished_at,message\n"
        "delta_net,hash-1,Compress,vocabulary 16,1e-05,0.1,3,smoke,diverged,,,,200,12345,1.5,cpu,abc,f,"
        "2025-01-02T03:04:05Z,\n"
        "delta_net,hash-1,Memorize,vocabulary 16,0.0005,0.1,3,smoke,finished,0.123456789012345,0.1,1.0,200,"
        "12345,1.5,cpu,abc,m,2025-01-02T03:04:05Z,\n"
    )
    assert list(COLUMNS) == path.read_text().splitlines()[0].split(",")


def test_importing_twice_changes_nothing(tmp_path: Path, examples: SimpleNamespace) -> None:
    path, runs = tmp_path / "runs.csv", [examples.run, examples.diverged, examples.crashed]
    write_runs(path, runs)
    with Ledger.in_folder(tmp_path) as ledger:
        assert import_runs(ledger, path) == 3
        assert import_runs(ledger, path) == 0
        assert ledger.runs() == tuple(bare(run) for run in runs)


def test_importing_leaves_what_the_ledger_has(tmp_path: Path, run: RunRecord) -> None:
    path = tmp_path / "runs.csv"
    write_runs(path, [replace(run, mad=0.9)])
    with Ledger.in_folder(tmp_path) as ledger:
        ledger.add_run(run)
        assert import_runs(ledger, path) == 0
        assert ledger.runs() == (run,)


def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.csv"
    write_runs(path, [run])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LedgerError, match=r"runs.csv cannot be written: No space left .*as it was before"):
        write_runs(path, [run, replace(run, key="other")])
    with pytest.raises(LedgerError, match="mad is nan"):
        write_runs(path, [replace(run, mad=float("nan"))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.123456789012345", "high", "line 2, column 'mad': 'high' is not a number"),
        ("0.123456789012345", "nan", r"line 2: RunRecord\[run-1\].mad is nan"),
        ("0.123456789012345", "1.5", "line 2: .*mad is 1.5"),
        ("0.123456789012345", "", "line 2: .*finished, and mad is None"),
        (",200,", ",2.5,", "line 2, column 'epochs': '2.5' is not a number"),
        ("finished,", "done,", "line 2: .*status is 'done'"),
        ("cpu,", "cpu,,", "line 2: 21 columns, but the header has 20"),
        (",mad,", ",score,", "line 1: missing column 'mad'; expected rule, rule_hash"),
        (",mad,", ",mad,mad,", "line 1: a column stands there twice"),
        ('"x"', '"x', "line 2: not a line of CSV"),
    ],
)
def test_bad_files(tmp_path: Path, run: RunRecord, old: str, new: str, message: str) -> None:
    path = tmp_path / "runs.csv"
    write_runs(path, [replace(run, message="a,b")])
    text = path.read_text().replace('"a,b"', '"x"')
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(TableError, match=message):
        read_runs(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read: No such file"):
        read_runs(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(TableError, match=r"no column of a table of runs .*expected rule, rule_hash"):
        read_runs(tmp_path / "empty.csv")
