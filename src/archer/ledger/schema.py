"""The ledger's tables, and how a file of any earlier version becomes one of today's.

A table holds the columns that are asked for, and the whole record as JSON beside them. `MIGRATIONS[n]` turns
a file of version n into one of version n + 1; version 0 is an empty file. A migration never changes once it
was released: add the next one. A record that only gains a field with a default needs none.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text

APPLICATION_ID = 0x41524348
"""The bytes "ARCH" in the header of the file, by which a ledger is told from any other SQLite file."""

metadata = MetaData()


def _table(name: str, key: str, columns: str) -> Table:
    """A table as MIGRATIONS leaves it: `number` is the order of arrival."""
    kinds = {"passed": Integer, "seed": Integer}
    return Table(
        name,
        metadata,
        Column("number", Integer, primary_key=True),
        Column(key, Text, nullable=False, unique=True),
        *(Column(column, kinds.get(column, Text), nullable=False) for column in columns.split()),
    )


meta = Table("meta", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))
rules = _table("rules", "rule_hash", "rule parent source")
runs = _table("runs", "key", "rule rule_hash preset task setting seed status record")
proposals = _table("proposals", "id", "rule parent researcher created_at record")
verifications = _table("verifications", "digest", "rule rule_hash passed record")
verdicts = _table("verdicts", "digest", "proposal rule preset record")
cycles = _table("cycles", "id", "preset state started_at record")

_VERSION_1 = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
    """CREATE TABLE rules (number INTEGER PRIMARY KEY, rule_hash TEXT NOT NULL UNIQUE, rule TEXT NOT NULL,
        parent TEXT NOT NULL, source TEXT NOT NULL)""",
    """CREATE TABLE runs (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, rule TEXT NOT NULL,
        rule_hash TEXT NOT NULL, preset TEXT NOT NULL, task TEXT NOT NULL, setting TEXT NOT NULL,
        seed INTEGER NOT NULL, status TEXT NOT NULL CHECK (status IN ('finished', 'diverged', 'crashed')),
        record TEXT NOT NULL)""",
    "CREATE INDEX runs_by_rule ON runs (rule_hash, preset, task)",
    "CREATE INDEX runs_by_preset ON runs (preset, task, status)",
    """CREATE TABLE proposals (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, rule TEXT NOT NULL,
        parent TEXT NOT NULL, researcher TEXT NOT NULL, created_at TEXT NOT NULL, record TEXT NOT NULL)""",
    """CREATE TABLE verifications (number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE,
        rule TEXT NOT NULL, rule_hash TEXT NOT NULL, passed INTEGER NOT NULL, record TEXT NOT NULL)""",
    "CREATE INDEX verifications_by_rule ON verifications (rule_hash)",
    """CREATE TABLE verdicts (number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, proposal TEXT NOT NULL,
        rule TEXT NOT NULL, preset TEXT NOT NULL, record TEXT NOT NULL)""",
    "CREATE INDEX verdicts_by_proposal ON verdicts (proposal)",
    """CREATE TABLE cycles (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, preset TEXT NOT NULL,
        state TEXT NOT NULL, started_at TEXT NOT NULL, record TEXT NOT NULL)""",
)


def _first_version(connection: Connection) -> None:
    for statement in _VERSION_1:
        connection.exec_driver_sql(statement)


_VERSION_2 = (
    """CREATE TABLE runs_2 (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, rule TEXT NOT NULL,
        rule_hash TEXT NOT NULL, preset TEXT NOT NULL, task TEXT NOT NULL, setting TEXT NOT NULL,
        seed INTEGER NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('finished', 'diverged', 'crashed', 'dropped')),
        record TEXT NOT NULL)""",
    """INSERT INTO runs_2
        SELECT number, key, rule, rule_hash, preset, task, setting, seed, status, record FROM runs""",
    "DROP TABLE runs",
    "ALTER TABLE runs_2 RENAME TO runs",
    "CREATE INDEX runs_by_rule ON runs (rule_hash, preset, task)",
    "CREATE INDEX runs_by_preset ON runs (preset, task, status)",
)


def _second_version(connection: Connection) -> None:
    """A run may be dropped by a race: SQLite changes a CHECK only by making the table again."""
    for statement in _VERSION_2:
        connection.exec_driver_sql(statement)


MIGRATIONS: list[Callable[[Connection], None]] = [_first_version, _second_version]
