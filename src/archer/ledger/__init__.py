"""The ledger: what was proposed, checked, run and judged, kept for good; and tables of what was tried before.

`records` holds the values, `store` the SQLite file (SQLAlchemy is imported when `Ledger` is first asked for),
`history` the tables of earlier trials, `runs_csv` runs as CSV, `summary` scores from runs, `locking` one
process per project folder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer.ledger.history import HistoryRow, HistoryTable, builtin_history, published_table, read_table
    from archer.ledger.locking import project_lock
    from archer.ledger.problems import LedgerError, LockError, TableError
    from archer.ledger.runs_csv import import_runs, read_runs, write_runs
    from archer.ledger.store import Ledger
    from archer.ledger.summary import ScoreRow, chosen_runs, score_table

LEDGER_NAME = "archer-ledger.sqlite"
"""The ledger's file in a project folder."""

EXPORTS = {
    "store": ("Ledger",),
    "history": ("HistoryRow", "HistoryTable", "builtin_history", "published_table", "read_table"),
    "locking": ("project_lock",),
    "problems": ("LedgerError", "LockError", "TableError"),
    "runs_csv": ("import_runs", "read_runs", "write_runs"),
    "summary": ("ScoreRow", "chosen_runs", "score_table"),
}
"""Module of this room: the public names that it holds."""

_HOME = {name: module for module, names in EXPORTS.items() for name in names}

__all__ = [
    "HistoryRow",
    "HistoryTable",
    "LEDGER_NAME",
    "Ledger",
    "LedgerError",
    "LockError",
    "ScoreRow",
    "TableError",
    "builtin_history",
    "chosen_runs",
    "import_runs",
    "project_lock",
    "published_table",
    "read_runs",
    "read_table",
    "score_table",
    "write_runs",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'archer.ledger' has no '{name}'; it has: {', '.join(__all__)}")
    return getattr(import_module(f"archer.ledger.{_HOME[name]}"), name)
