"""How figures are written for people, in the terminal, in reports and in sentences. A leaf.

JSON, CSV and what is typed (options, rules, constants) have the hyphen for a minus; what is only read has
MINUS. A number that is not there is never written as 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\u2212"

UNITS = ("s", "min", "h")


def is_number(value: float | None) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def score(value: float | None, absent: str) -> str:
    """A score between 0 and 1 with three decimals, or `absent`."""
    return f"{value:.3f}" if value is not None and math.isfinite(value) else absent


def signed(value: float | None, absent: str, decimals: int = 3) -> str:
    """A difference with its sign: +0.012, −0.012; 0.000 has no sign."""
    if value is None or not math.isfinite(value):
        return absent
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def interval(low: float | None, high: float | None, absent: str, sign: bool = True) -> str:
    """[low, high], or `absent` where an end is missing."""
    if not (is_number(low) and is_number(high)):
        return absent
    write = signed if sign else score
    return f"[{write(low, absent)}, {write(high, absent)}]"


def duration(seconds: float | None, absent: str, units: Sequence[str] = UNITS) -> str:
    """A time as a person says it, in two digits or three: 0.4 s, 33 s, 8.4 min, 1.6 h, 104 h.

    units: the words for seconds, minutes and hours. Below a twentieth of a second it says < 0.1 s, and a
    time that went backwards, because a clock was set, has a minus.
    """
    if seconds is None or not math.isfinite(seconds):
        return absent
    if seconds < 0:
        return MINUS + duration(-seconds, absent, units)
    if 0 < seconds < 0.05:
        return f"< 0.1 {units[0]}"
    for size, unit in ((1, units[0]), (60, units[1])):
        if seconds / size < 59.5:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds / 3600)} {units[2]}"


def _short(value: float) -> str:
    """One decimal below ten, and none where it is 0: 8.4, 8, 12, 1,234."""
    return f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{value:,.0f}"
