from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import IntegrityError

from archer.ledger import LEDGER_NAME, Ledger, opening, schema
from archer.ledger.problems import LedgerError
from archer.ledger.records import CurvePoint, CycleRecord, RunRecord

VERSION_1 = Path(__file__).parent / "version_1.ledger"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.in_folder(tmp_path) as ledger:
        yield ledger


def fill(ledger: Ledger, examples: SimpleNamespace) -> None:
    """What version_1.ledger holds; it was made by this function and is not to be made again."""
    assert ledger.add_runs([examples.run, examples.diverged, examples.crashed]) == (True, True, True)
    assert ledger.add_source(examples.source)
    assert ledger.add_proposal(examples.proposal)
    assert ledger.add_verification(examples.verification)
    assert ledger.add_verdict(examples.verdict)
    assert ledger.put_cycle(examples.cycle)


def check_filled(ledger: Ledger, examples: SimpleNamespace) -> None:
    assert ledger.runs() == (examples.run, examples.diverged, examples.crashed)
    assert ledger.source("hash-1") == examples.source
    assert ledger.sources() == {"hash-1": examples.source.source}
    assert ledger.proposals() == (examples.proposal,)
    assert ledger.verifications() == (examples.verification,)
    assert ledger.verdicts() == (examples.verdict,)
    assert ledger.cycles() == (examples.cycle,)


def test_every_record_reads_back_as_it_was(tmp_path: Path, examples: SimpleNamespace) -> None:
    with Ledger.in_folder(tmp_path) as ledger:
        fill(ledger, examples)
    with Ledger.in_folder(tmp_path) as ledger:
        check_filled(ledger, examples)
    with Ledger.in_folder(tmp_path, read_only=True) as ledger:
        check_filled(ledger, examples)


def test_a_closed_ledger_is_one_file(tmp_path: Path, run: RunRecord) -> None:
    with Ledger.in_folder(tmp_path) as ledger:
        ledger.add_run(run)
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_NAME]


@pytest.mark.parametrize("name", ["run", "diverged"])
def test_a_result_never_changes(ledger: Ledger, examples: SimpleNamespace, name: str) -> None:
    record = getattr(examples, name)
    assert ledger.add_run(record)
    for other in (examples.run, examples.diverged, examples.crashed):
        assert not ledger.add_run(replace(other, key=record.key, message="other"))
    assert ledger.runs() == (record,)


@pytest.mark.parametrize("name", ["run", "diverged"])
def test_a_crashed_run_gives_way_to_a_result(ledger: Ledger, examples: SimpleNamespace, name: str) -> None:
    crashed, result = examples.crashed, replace(getattr(examples, name), key=examples.crashed.key)
    assert ledger.add_run(crashed)
    assert not ledger.has_run(crashed.key)
    assert not ledger.add_run(replace(crashed, message="crashed again"))
    assert ledger.runs() == (crashed,)
    assert ledger.add_run(result)
    assert ledger.has_run(crashed.key)
    assert ledger.runs() == (result,)
    assert ledger.runs(status="crashed") == ()


@pytest.mark.parametrize("name", ["run", "diverged"])
def test_a_dropped_run_is_no_result_and_gives_way_to_one(
    ledger: Ledger, examples: SimpleNamespace, name: str
) -> None:
    """A race's drop is more than a crash and less than a result; either is trained again."""
    crashed = examples.crashed
    dropped, result = replace(crashed, status="dropped"), replace(getattr(examples, name), key=crashed.key)
    assert ledger.add_runs([crashed, dropped]) == (True, True)
    assert not ledger.has_run(crashed.key)
    assert not ledger.add_run(crashed)
    assert ledger.runs() == (dropped,)
    assert ledger.add_run(result)
    assert not ledger.add_run(dropped)
    assert ledger.has_run(crashed.key)
    assert ledger.runs() == (result,)


def test_only_rules_that_passed_are_accepted_and_the_last_of_a_name(
    ledger: Ledger, examples: SimpleNamespace
) -> None:
    for number, passed in enumerate((True, True, False)):
        name = f"hash-{number}"
        ledger.add_source(replace(examples.source, rule_hash=name, rule="new", source=f"text {number}"))
        ledger.add_verification(
            replace(examples.verification, rule="new", rule_hash=name, passed=passed, checks=())
        )
    passed_without_text = replace(examples.verification, rule="other", rule_hash="lost", passed=True)
    ledger.add_verification(passed_without_text)
    assert ledger.accepted() == {"new": "text 1"}


def test_runs_are_filtered(ledger: Ledger, run: RunRecord) -> None:
    others = [
        replace(run, key=f"k{n}", task=task) for n, task in enumerate(("Compress", "Memorize", "Memorize"))
    ]
    last = replace(run, key="last", rule="b", rule_hash="hb", preset="quick")
    ledger.add_runs([*others, last])
    assert [r.key for r in ledger.runs(task="Memorize")] == ["k1", "k2"]
    assert [r.key for r in ledger.runs(task=["Memorize", "Compress"], rule="delta_net")] == ["k0", "k1", "k2"]
    assert [r.key for r in ledger.runs(keys=["last", "k1", "absent"])] == ["k1", "last"]
    assert [r.key for r in ledger.runs(keys=(f"k{n}" for n in range(100_000)))] == ["k0", "k1", "k2"]
    assert (
        ledger.runs(keys=[])
        == ledger.runs(status="diverged")
        == ledger.runs(rule_hash="h", preset="quick")
        == ()
    )
    assert ledger.runs(rule_hash="hb", preset="quick") == (last,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mad": float("nan")}, r"RunRecord\[run-1\].mad is nan .*expected a finite number, or None"),
        ({"mad": 1.5}, r"mad is 1.5 .*expected a score from 0 to 1"),
        ({"held_out": -0.1}, "held_out is -0.1"),
        ({"validation": None}, "is finished, and validation is None: a finished run has its three scores"),
        ({"mad": "0.5"}, r"mad is '0.5' \(str\)"),
        ({"mad": True}, r"mad is True \(bool\)"),
        ({"status": "done"}, "status is 'done' .*'finished', 'diverged', 'crashed'"),
        ({"status": "diverged"}, "is diverged, and mad, held_out, validation is .*: a finished run has"),
        ({"wall_seconds": float("inf")}, "wall_seconds is inf"),
        ({"curve": (CurvePoint(1, float("nan"), None, None, None, None),)}, r"curve\[0\].train_loss is nan"),
        ({"curve": (CurvePoint(1, 1.0, 1.0, 2.0, 1.0, 1.0),)}, r"curve\[0\].validation_accuracy is 2.0"),
        ({"curve": [1]}, "curve is .*expected a tuple"),
        ({"passed": {"a": {"b": [float("nan")]}}}, r"passed\['a'\]\['b'\]\[0\] is nan"),
        ({"passed": {1: 2}}, r"a key of .*passed is 1"),
        ({"effective": {"dtype": object()}}, r"effective\['dtype'\] is <object"),
        ({"seed": 1.0}, r"seed is 1.0 \(float\)"),
        ({"rule": None}, "rule is None"),
    ],
)
def test_what_does_not_fit_is_refused(
    ledger: Ledger, run: RunRecord, change: dict[str, object], message: str
) -> None:
    good = replace(run, key="good")
    with pytest.raises(LedgerError, match=message):
        ledger.add_runs([good, replace(run, **change)])  # type: ignore[arg-type]
    assert ledger.runs() == ()


def test_a_batch_is_kept_as_a_whole_or_not_at_all(ledger: Ledger, run: RunRecord) -> None:
    connection = sqlite3.connect(ledger.path)
    connection.execute(
        "CREATE TRIGGER third BEFORE INSERT ON runs WHEN new.key = 'k2' BEGIN SELECT raise(ABORT, 'no'); END"
    )
    connection.close()
    with pytest.raises(IntegrityError):
        ledger.add_runs([replace(run, key=f"k{number}") for number in range(4)])
    assert ledger.runs() == ()
    assert ledger.add_run(replace(run, key="k0"))


def test_tuples_in_free_settings_come_back_as_lists(ledger: Ledger, run: RunRecord) -> None:
    ledger.add_run(replace(run, passed={"betas": (0.9, 0.98)}))
    assert ledger.runs()[0].passed == {"betas": [0.9, 0.98]}


def test_the_first_text_of_a_rule_stays(ledger: Ledger, examples: SimpleNamespace) -> None:
    assert ledger.add_source(examples.source)
    assert not ledger.add_source(replace(examples.source, source="other"))
    assert ledger.source("hash-1") == examples.source
    assert ledger.source("absent") is None


def test_the_same_verification_is_kept_once_and_another_beside_it(
    ledger: Ledger, examples: SimpleNamespace
) -> None:
    first, again = examples.verification, replace(examples.verification, passed=True)
    assert [ledger.add_verification(record) for record in (first, first, again)] == [True, False, True]
    assert ledger.verifications(rule_hash="hash-2") == (first, again)
    assert [ledger.add_verdict(examples.verdict) for _ in range(2)] == [True, False]
    assert ledger.add_proposal(examples.proposal)
    assert not ledger.add_proposal(replace(examples.proposal, reason="other"))
    assert ledger.proposals(id="proposal-1") == (examples.proposal,)


@pytest.mark.parametrize("state", ["finished", "rejected"])
def test_a_cycle_ends_once(ledger: Ledger, examples: SimpleNamespace, state: str) -> None:
    cycle: CycleRecord = examples.cycle
    end = replace(cycle, state=state, finished_at="later")
    assert [ledger.put_cycle(c) for c in (cycle, cycle, end, end)] == [True, False, True, False]
    with pytest.raises(LedgerError, match=f"cycle cycle-1 is {state} and does not change"):
        ledger.put_cycle(replace(end, message="other"))
    assert ledger.cycles(state=state) == (end,)


def test_a_failed_cycle_is_taken_up_again(ledger: Ledger, examples: SimpleNamespace) -> None:
    states = [replace(examples.cycle, state=state) for state in ("running", "failed", "running", "finished")]
    assert all(ledger.put_cycle(state) for state in states)
    assert ledger.cycles() == (states[-1],)


def test_read_only_writes_nothing(tmp_path: Path, run: RunRecord) -> None:
    Ledger.in_folder(tmp_path).close()
    with (
        Ledger.in_folder(tmp_path, read_only=True) as ledger,
        pytest.raises(LedgerError, match="was opened read-only"),
    ):
        ledger.add_run(run)


def test_read_only_sees_what_another_is_writing(ledger: Ledger, run: RunRecord) -> None:
    with Ledger.open(ledger.path, read_only=True) as reader:
        assert reader.runs() == ()
        ledger.add_run(run)
        assert reader.runs() == (run,)


def test_a_forked_process_uses_its_own_connection(ledger: Ledger, run: RunRecord) -> None:
    ledger.add_run(run)
    before = id(ledger._engine.pool)
    ledger._process = -1  # as a child sees it after a fork
    assert ledger.add_run(replace(run, key="child"))
    assert id(ledger._engine.pool) != before
    assert ledger._process == os.getpid()


def test_settings_of_the_file(ledger: Ledger) -> None:
    with ledger._read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "application_id")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 60_000,
        "application_id": int.from_bytes(b"ARCH"),
    }


def test_switching_a_new_file_waits_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite refuses the switch at once where another process switches too: then it is tried again."""
    engine = opening._engine(tmp_path / LEDGER_NAME, "rwc")
    reader = sqlite3.connect(tmp_path / LEDGER_NAME, isolation_level=None)
    reader.executescript("CREATE TABLE t (x); BEGIN; SELECT * FROM t;")
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        reader.close()

    monkeypatch.setattr(opening.time, "sleep", wait)
    with engine.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA busy_timeout = 0")  # type: ignore[union-attr]
    opening._use_write_ahead_log(engine)
    engine.dispose()
    assert waits == [0.02]


# Versions


def copy_of_version_1(tmp_path: Path) -> Path:
    return Path(shutil.copy(VERSION_1, tmp_path / LEDGER_NAME))


@pytest.mark.parametrize("read_only", [True, False])
def test_a_ledger_of_version_1_opens_forever(
    tmp_path: Path, examples: SimpleNamespace, read_only: bool
) -> None:
    with Ledger.open(copy_of_version_1(tmp_path), read_only) as ledger:
        check_filled(ledger, examples)


def test_the_tables_are_what_the_migrations_make(ledger: Ledger) -> None:
    inspector = inspect(ledger._engine)
    made = {
        name: [(c["name"], c["nullable"]) for c in inspector.get_columns(name)]
        for name in inspector.get_table_names()
    }
    named = {
        table.name: [(c.name, bool(c.nullable)) for c in table.columns]
        for table in schema.metadata.sorted_tables
    }
    made = {name: [(c, n and c != "number") for c, n in columns] for name, columns in made.items()}
    assert made == named


def add_a_table(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE later (number INTEGER PRIMARY KEY)")


def fail_halfway(connection: Connection) -> None:
    add_a_table(connection)
    connection.exec_driver_sql("SELECT * FROM nowhere")


def table_names(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        names = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    connection.close()
    return names


def test_an_older_ledger_is_brought_up_to_date(
    tmp_path: Path, examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of_version_1(tmp_path)
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_a_table])
    for _ in range(2):
        with Ledger.open(path) as ledger:
            check_filled(ledger, examples)
    assert "later" in table_names(path)


def test_an_older_ledger_read_only_is_brought_up_to_date_in_memory(
    tmp_path: Path, examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of_version_1(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_a_table])
    with Ledger.open(path, read_only=True) as ledger:
        check_filled(ledger, examples)
        with ledger._read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM later").scalar() == 0
    assert path.read_bytes() == before


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of_version_1(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, fail_halfway])
        with pytest.raises(LedgerError, match="no such table: nowhere"):
            Ledger.open(path)
    assert "later" not in table_names(path)
    with Ledger.open(path) as ledger:
        check_filled(ledger, examples)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_newer_ledger_is_refused(tmp_path: Path, read_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / LEDGER_NAME
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_a_table])
        Ledger.open(path).close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="of version 3, and this Archer knows versions up to 2: use"):
        Ledger.open(path, read_only)
    assert path.read_bytes() == before


def test_fields_may_come_and_go(ledger: Ledger, run: RunRecord) -> None:
    ledger.add_run(run)
    with ledger._write() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET record = json_remove(json_set(record, '$.colour', 'blue'), '$.packages')"
        )
    assert ledger.runs() == (replace(run, packages={}),)


# What is no ledger


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("content", [b"rule,score\n" * 100, bytes(range(256)) * 40])
def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path, content: bytes, read_only: bool) -> None:
    path = tmp_path / LEDGER_NAME
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=f"{LEDGER_NAME}: this is no SQLite file"):
        Ledger.open(path, read_only)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("read_only", [True, False])
def test_another_programs_file_is_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "mail.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (key)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="another program's SQLite file, not a ledger; nothing was changed"):
        Ledger.open(path, read_only)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_ledger(tmp_path: Path, run: RunRecord) -> None:
    """What a process leaves that was killed while it made the file."""
    path = tmp_path / LEDGER_NAME
    path.touch()
    with Ledger.open(path) as ledger:
        assert ledger.add_run(run)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_folder_is_refused(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(LedgerError, match=f"is a folder: .* did you mean .*{LEDGER_NAME}"):
        Ledger.open(tmp_path, read_only)
    assert list(tmp_path.iterdir()) == []


def test_read_only_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="does not exist: nothing has been recorded there yet"):
        Ledger.in_folder(tmp_path / "new", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be made"):
        Ledger.in_folder(tmp_path / "file" / "project")


def test_a_damaged_ledger_is_named(tmp_path: Path, run: RunRecord) -> None:
    path = tmp_path / LEDGER_NAME
    with Ledger.open(path) as ledger:
        ledger.add_runs([replace(run, key=f"k{number}") for number in range(200)])
    content = path.read_bytes()
    path.write_bytes(content[:8192] + os.urandom(len(content) - 8192))
    with pytest.raises(LedgerError, match="damaged"), Ledger.open(path) as ledger:
        ledger.runs()


def test_a_damaged_record_is_named(ledger: Ledger, run: RunRecord) -> None:
    ledger.add_run(run)
    with ledger._write() as connection:
        connection.exec_driver_sql("UPDATE runs SET record = replace(record, '\"mad\":0.', '\"mad\":7.')")
    with pytest.raises(LedgerError, match=r"runs 1\.mad is 7\.\d+ .*expected a score"):
        ledger.runs()
