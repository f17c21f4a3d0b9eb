"""What can go wrong in the ledger in a way that the user can put right."""

from __future__ import annotations

from archer.errors import UserError


class LedgerError(UserError):
    """A ledger file that cannot be opened, read or written; or a record that does not fit its form."""


class TableError(UserError):
    """A table of scores that cannot be read: names the file, the line and the column."""


class LockError(UserError):
    """Another process works in the same project folder."""
