"""How numbers and names are written in tables: those of archer.figures, and what only a report needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from archer.figures import MINUS, duration, interval, is_number, score, signed

if TYPE_CHECKING:
    from archer.ledger.records import TaskComparison

__all__ = [
    "MINUS", "count", "duration", "elapsed_seconds", "ends", "epochs", "folded", "interval", "is_number",
    "probability", "rate", "score", "signed", "word",
]  # fmt: skip


def ends(line: TaskComparison, absent: str) -> str:
    """The interval of a difference; in English words where the two are one function and it has none."""
    return "one function" if line.one_function else interval(line.low, line.high, absent)


def word(line: TaskComparison) -> str:
    """The word on one task in English; where nothing can be better, that comes first."""
    if line.no_room != "both":
        return line.word
    return "no room" if line.word == "undecided" else f"{line.word}, no room"


def probability(value: float | None, absent: str) -> str:
    """A p-value with three decimals; below 0.001 says so."""
    if value is None or not math.isfinite(value):
        return absent
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def epochs(values: Sequence[int | None], absent: str) -> str:
    """Epochs until solved, one value for each setting and seed, None where it was not solved.

    9; 9–22 for several; 9–22 (2/3) where two of three were solved; `absent` where none was.
    """
    solved = sorted(value for value in values if value is not None)
    if not solved:
        return absent
    span = str(solved[0]) if solved[0] == solved[-1] else f"{solved[0]}\N{EN DASH}{solved[-1]}"
    return span if len(solved) == len(values) else f"{span} ({len(solved)}/{len(values)})"


def count(value: float) -> str:
    """A whole number with thousands set apart: 1,234,567."""
    return f"{round(value):,}"


def elapsed_seconds(started_at: str, finished_at: str | None) -> float | None:
    """From a beginning to an end, both ISO 8601; None while there is no end."""
    if finished_at is None:
        return None
    return (datetime.fromisoformat(finished_at) - datetime.fromisoformat(started_at)).total_seconds()


def rate(value: float) -> str:
    """A learning rate or weight decay, as short as it goes: 1e-04 becomes 1e-4."""
    text = f"{value:g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def folded(name: str, width: int) -> str:
    """A long name on several lines, broken after a mark between words where it has one in time."""
    lines, rest = [], name
    while len(rest) > width:
        cut = max(rest.rfind(mark, 0, width) for mark in "_+=-, ") + 1 or width
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:]
    return "\n".join([*lines, rest])
