"""The ledger: every proposal, check, run and verdict of a project, in one SQLite file.

Write-ahead logging lets many processes read while one writes; a writer waits `BUSY_SECONDS` for its turn.
`synchronous=FULL`: when `add_run` returns, the run is on the disk, also after a power cut. That costs a few
milliseconds, and a run costs minutes. Each write is one transaction, so a process killed anywhere loses only
what it had not yet been told was kept. The folder must be on a local disk: SQLite's write-ahead log does not
work over a network file system.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, Table, func, insert, select, update

from archer.ledger import LEDGER_NAME, schema
from archer.ledger.codec import from_json, to_json
from archer.ledger.opening import (
    BUSY_SECONDS,
    check_path,
    plain_errors,
    read_only_engine,
    writable_engine,
    writing,
)
from archer.ledger.problems import LedgerError
from archer.ledger.records import (
    CycleRecord,
    ProposalRecord,
    RuleSource,
    RunRecord,
    VerdictRecord,
    VerificationRecord,
)

__all__ = ["BUSY_SECONDS", "Ledger"]

Record = TypeVar("Record")
Choice = str | Iterable[str] | None
"""A filter: one value, several, or None for all."""


class Ledger:
    """An open ledger. Use as a context manager; a process forked from this one opens its own connection.

    A run that finished or diverged never changes. A run that crashed, or that a race dropped, is no result:
    it is replaced when the same key finishes or diverges (a crash by a drop, too), and `has_run` does not
    count it, so that it is trained again.
    """

    def __init__(self, path: Path, engine: Engine, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._engine = engine
        self._process = os.getpid()

    @classmethod
    def open(cls, path: str | Path, read_only: bool = False) -> Ledger:
        """Open the ledger at `path`; makes it, and its folder, unless `read_only`.

        Read-only changes nothing in the file: a ledger of an older version is brought up to date in memory.

        Raises:
            LedgerError: for a directory, a file that is no ledger, a ledger of a newer version, a folder that
                cannot be written, or (read-only) a file that is not there.
        """
        path = Path(path)
        check_path(path, read_only)
        with plain_errors(path):
            engine = read_only_engine(path) if read_only else writable_engine(path)
        return cls(path, engine, read_only)

    @classmethod
    def in_folder(cls, folder: str | Path, read_only: bool = False) -> Ledger:
        """The ledger of a project folder."""
        return cls.open(Path(folder) / LEDGER_NAME, read_only)

    def close(self) -> None:
        """Give the file back; the write-ahead log is folded into it by the last one to close."""
        self._engine.dispose(close=self._process == os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Runs

    def add_run(self, record: RunRecord) -> bool:
        """Keep a run. False, and no change, where its key is kept already (see the class for crashed runs).

        Raises:
            LedgerError: for a record that does not fit its form, or a full disk; then nothing changed.
        """
        return self.add_runs([record])[0]

    def add_runs(self, records: Iterable[RunRecord]) -> tuple[bool, ...]:
        """Keep several runs in one transaction, all or none: one wait for the disk instead of many."""
        rows = [_run_row(record) for record in records]
        with self._write() as connection:
            return tuple([_put_run(connection, row) for row in rows])

    def runs(
        self,
        rule: Choice = None,
        rule_hash: Choice = None,
        preset: Choice = None,
        task: Choice = None,
        status: Choice = None,
        keys: Choice = None,
    ) -> tuple[RunRecord, ...]:
        """The runs that fit every filter, in the order in which they were kept."""
        chosen = {"rule": rule, "rule_hash": rule_hash, "preset": preset, "task": task, "status": status}
        return self._records(RunRecord, schema.runs, chosen | {"key": keys})

    def has_run(self, key: str) -> bool:
        """Whether this run has finished or diverged, and so needs no training."""
        query = select(schema.runs.c.status).where(schema.runs.c.key == key)
        with self._read() as connection:
            return connection.execute(query).scalar() in ("finished", "diverged")

    # Rules

    def add_source(self, source: RuleSource) -> bool:
        """Keep a rule's text. False, and no change, where its hash is kept already."""
        row = {
            "rule_hash": source.rule_hash,
            "rule": source.rule,
            "parent": source.parent,
            "source": source.source,
        }
        return self._add(schema.rules, row)

    def source(self, rule_hash: str) -> RuleSource | None:
        """The rule of this hash, or None where the ledger does not have it."""
        with self._read() as connection:
            row = connection.execute(
                select(schema.rules).where(schema.rules.c.rule_hash == rule_hash)
            ).first()
        return None if row is None else RuleSource(row.rule_hash, row.rule, row.parent, row.source)

    def sources(self) -> dict[str, str]:
        """Rule hash to source text, for every rule that was kept."""
        columns = schema.rules.c
        with self._read() as connection:
            rows = connection.execute(select(columns.rule_hash, columns.source).order_by(columns.number))
            return {row.rule_hash: row.source for row in rows}

    def accepted(self) -> dict[str, str]:
        """Rule name to source text, for every rule that passed verification; of several with one name the
        last. A proposal that was rejected is not among them, whatever name it had."""
        kept = self.sources()
        passed = [one for one in self.verifications() if one.passed and one.rule_hash in kept]
        return {one.rule: kept[one.rule_hash] for one in passed}

    # Proposals, verifications, verdicts, cycles

    def add_proposal(self, record: ProposalRecord) -> bool:
        """Keep a proposal. False, and no change, where its id is kept already."""
        row = _columns(record, "id", "rule", "parent", "researcher", "created_at")
        return self._add(schema.proposals, row | {"record": to_json(record)})

    def proposals(
        self, id: Choice = None, rule: Choice = None, parent: Choice = None, researcher: Choice = None
    ) -> tuple[ProposalRecord, ...]:
        """The proposals that fit every filter, in the order in which they were kept."""
        chosen = {"id": id, "rule": rule, "parent": parent, "researcher": researcher}
        return self._records(ProposalRecord, schema.proposals, chosen)

    def add_verification(self, record: VerificationRecord) -> bool:
        """Keep a verification. False, and no change, where exactly the same one is kept already."""
        row = _columns(record, "rule", "rule_hash") | {"passed": int(record.passed)}
        return self._add(schema.verifications, row | _digested(record))

    def verifications(self, rule: Choice = None, rule_hash: Choice = None) -> tuple[VerificationRecord, ...]:
        """The verifications that fit every filter, in the order in which they were kept: the last counts."""
        return self._records(VerificationRecord, schema.verifications, {"rule": rule, "rule_hash": rule_hash})

    def add_verdict(self, record: VerdictRecord) -> bool:
        """Keep a verdict. False, and no change, where exactly the same one is kept already."""
        return self._add(schema.verdicts, _columns(record, "proposal", "rule", "preset") | _digested(record))

    def verdicts(
        self, proposal: Choice = None, rule: Choice = None, preset: Choice = None
    ) -> tuple[VerdictRecord, ...]:
        """The verdicts that fit every filter, in the order in which they were kept: the last counts."""
        chosen = {"proposal": proposal, "rule": rule, "preset": preset}
        return self._records(VerdictRecord, schema.verdicts, chosen)

    def put_cycle(self, record: CycleRecord) -> bool:
        """Keep a cycle, or the next state of one. False where nothing changed.

        A running cycle may be put in any state, and a failed one taken up again. Finished and rejected are
        final.

        Raises:
            LedgerError: where a finished or rejected cycle would change.
        """
        row = _columns(record, "id", "preset", "state", "started_at") | {"record": to_json(record)}
        columns = schema.cycles.c
        with self._write() as connection:
            old = connection.execute(
                select(columns.state, columns.record).where(columns.id == record.id)
            ).first()
            if old is None:
                connection.execute(insert(schema.cycles), row)
            elif old.record == row["record"]:
                return False
            elif old.state in ("finished", "rejected"):
                raise LedgerError(f"cycle {record.id} is {old.state} and does not change: start another")
            else:
                connection.execute(update(schema.cycles).where(columns.id == record.id).values(row))
        return True

    def cycles(
        self, id: Choice = None, state: Choice = None, preset: Choice = None
    ) -> tuple[CycleRecord, ...]:
        """The cycles that fit every filter, in the order in which they were started."""
        return self._records(CycleRecord, schema.cycles, {"id": id, "state": state, "preset": preset})

    # Inside

    def _add(self, table: Table, row: dict[str, Any]) -> bool:
        with self._write() as connection:
            return connection.execute(insert(table).prefix_with("OR IGNORE"), row).rowcount == 1

    def _records(self, kind: type[Record], table: Table, chosen: dict[str, Choice]) -> tuple[Record, ...]:
        query = select(table.c.number, table.c.record).order_by(table.c.number)
        for name, choice in chosen.items():
            query = _filtered(query, table, name, choice)
        with self._read() as connection:
            rows = connection.execute(query).all()
        return tuple(from_json(kind, text, f"{self.path}, {table.name} {number}") for number, text in rows)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        self._after_fork()
        with plain_errors(self.path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        if self.read_only:
            raise LedgerError(f"{self.path} was opened read-only: nothing can be written to it")
        self._after_fork()
        with plain_errors(self.path), writing(self._engine) as connection:
            yield connection

    def _after_fork(self) -> None:
        """A SQLite connection must not cross a fork: leave the parent's alone and make new ones."""
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._process = os.getpid()


def _columns(record: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _digested(record: Any) -> dict[str, str]:
    text = to_json(record)
    return {"digest": hashlib.sha256(text.encode()).hexdigest(), "record": text}


def _run_row(record: RunRecord) -> dict[str, Any]:
    names = ("key", "rule", "rule_hash", "preset", "task", "setting", "seed", "status")
    return _columns(record, *names) | {"record": to_json(record)}


def _put_run(connection: Connection, row: dict[str, Any]) -> bool:
    """Insert, or replace what is no result by what is more of one; True where the ledger changed."""
    if connection.execute(insert(schema.runs).prefix_with("OR IGNORE"), row).rowcount == 1:
        return True
    lesser = {"crashed": (), "dropped": ("crashed",)}.get(row["status"], ("crashed", "dropped"))
    columns = schema.runs.c
    replaced = update(schema.runs).where(columns.key == row["key"], columns.status.in_(lesser))
    return connection.execute(replaced.values(row)).rowcount == 1


def _filtered(query: Any, table: Table, name: str, choice: Choice) -> Any:
    """One bound value for any number of choices: SQLite limits how many a statement may have."""
    if choice is None:
        return query
    if isinstance(choice, str):
        return query.where(table.c[name] == choice)
    listed = func.json_each(json.dumps(list(choice))).table_valued("value")
    return query.where(table.c[name].in_(select(listed.c.value)))
