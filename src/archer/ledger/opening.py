"""Opening a ledger's file: is it one, of which version, may it be written; SQLite's errors in plain words."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from archer.figures import duration
from archer.ledger import LEDGER_NAME, schema
from archer.ledger.problems import LedgerError

BUSY_SECONDS = 60.0
"""How long a writer waits for the other writers before it gives up."""


def check_path(path: Path, read_only: bool) -> None:
    """Refuse what cannot be a ledger before SQLite sees it; make the folder of one to be written."""
    if path.is_dir():
        raise LedgerError(f"{path} is a folder: a ledger is one file; did you mean {path / LEDGER_NAME}?")
    if path.exists() and not path.is_file():
        raise LedgerError(f"{path} is not a regular file: a ledger is one SQLite file on a local disk")
    if read_only and not path.exists():
        raise LedgerError(f"{path} does not exist: nothing has been recorded there yet")
    if not read_only:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the folder {path.parent} for the ledger cannot be made: {error.strerror}"
            ) from error


def _engine(path: Path, mode: str, **options: Any) -> Engine:
    """An engine whose transactions are SQLite's own: BEGIN IMMEDIATE to write, BEGIN to read.

    The module sqlite3 opens a transaction only before the first change, so that what was read before it
    could be stale; therefore it is told to keep out of it.
    """

    def connect() -> sqlite3.Connection:
        address = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    return _with_transactions(create_engine("sqlite://", creator=connect, **options))


def _with_transactions(engine: Engine) -> Engine:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction: kept as a whole, or not at all."""
    with engine.connect().execution_options(writing=True) as connection, connection.begin():
        yield connection


def writable_engine(path: Path) -> Engine:
    """An engine for a ledger brought up to date, in write-ahead mode; a foreign file is not touched."""
    engine = _engine(path, "rwc", poolclass=QueuePool)
    try:
        with engine.connect() as connection:
            version = _version(connection, path)
        _use_write_ahead_log(engine)
        if version < len(schema.MIGRATIONS):
            with writing(engine) as connection:
                _migrate(connection, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def read_only_engine(path: Path) -> Engine:
    """An engine that cannot write. Without rights on the folder a closed ledger is read as immutable."""
    log = path.with_name(path.name + "-wal")
    closed = not (log.exists() and log.stat().st_size)
    alone = closed and not os.access(path.parent, os.W_OK)
    engine = _engine(path, "ro&immutable=1" if alone else "ro")
    try:
        with engine.connect() as connection:
            version = _version(connection, path)
            if version == len(schema.MIGRATIONS):
                return engine
            migrated = _copy_in_memory(connection)
        with writing(migrated) as connection:
            _migrate(connection, path)
    except BaseException:
        engine.dispose()
        raise
    engine.dispose()
    return migrated


def _copy_in_memory(connection: Connection) -> Engine:
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.backup(copy)
    return _with_transactions(create_engine("sqlite://", creator=lambda: copy, poolclass=StaticPool))


def _version(connection: Connection, path: Path) -> int:
    """The version of the file's tables, 0 for an empty file; an error for what is no ledger of ours."""
    application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    if application != schema.APPLICATION_ID:
        if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() or application:
            raise LedgerError(f"{path} is another program's SQLite file, not a ledger; nothing was changed")
        return 0
    text = connection.execute(
        select(schema.meta.c.value).where(schema.meta.c.name == "schema_version")
    ).scalar()
    if text is None or not text.isdecimal():
        raise LedgerError(f"{path} is a ledger whose version is {text!r}: expected a number; it is damaged")
    if int(text) > len(schema.MIGRATIONS):
        raise LedgerError(
            f"{path} is a ledger of version {text}, and this Archer knows versions up to "
            f"{len(schema.MIGRATIONS)}: use the newer Archer that wrote it "
            "(pip install --upgrade archer-lab); nothing was changed"
        )
    return int(text)


def _use_write_ahead_log(engine: Engine) -> None:
    """Switch the file over once; SQLite does not wait for other processes here, so this does."""
    deadline = time.monotonic() + BUSY_SECONDS
    driver = engine.raw_connection()
    try:
        while True:
            try:
                driver.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
    finally:
        driver.close()


def _migrate(connection: Connection, path: Path) -> None:
    """Bring the tables up to date inside the caller's transaction; another process may have been first."""
    for migration in schema.MIGRATIONS[_version(connection, path) :]:
        migration(connection)
    connection.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    row = {"name": "schema_version", "value": str(len(schema.MIGRATIONS))}
    connection.execute(insert(schema.meta).prefix_with("OR REPLACE"), row)


_RIGHTS = "it cannot be opened or written: check the rights of the file and of its folder"
_ADVICE = {
    "SQLITE_FULL": "the disk is full; what was recorded before is safe: free some space and start again",
    "SQLITE_IOERR": "the disk cannot be read or written (full, over its quota, or failing); "
    "what was recorded before is safe: free some space and start again",
    "SQLITE_NOTADB": "this is no SQLite file, so no ledger; nothing was changed",
    "SQLITE_CORRUPT": "the file is damaged; put back a copy, or start a new ledger in another folder",
    "SQLITE_ERROR": "the file is damaged, or was changed by another program",
    "SQLITE_READONLY": _RIGHTS,
    "SQLITE_CANTOPEN": _RIGHTS,
    "SQLITE_PERM": _RIGHTS,
    "SQLITE_BUSY": f"other processes kept it locked for {duration(BUSY_SECONDS, '')}: "
    "see who uses it, then start again",
}


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """SQLite's errors, with what to do about them; any other error passes unchanged."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        name = getattr(cause, "sqlite_errorname", None) or ""
        advice = next((text for start, text in _ADVICE.items() if name.startswith(start)), None)
        if advice is None:
            raise
        raise LedgerError(f"the ledger {path}: {advice} ({cause})") from error
