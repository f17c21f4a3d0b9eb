"""The problem with what the judge was given, as the command line prints it: one plain sentence."""

from __future__ import annotations

from archer.errors import UserError


class JudgeError(UserError):
    """What was handed to the judge cannot be judged; the message says what arrived and what to do."""
