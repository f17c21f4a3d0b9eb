"""What a verification found, as plain frozen data that travels as JSON and is read back strictly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from archer.errors import UserError

TEXT = 4_000
CHECKS = 100


class MalformedResult(UserError):  # noqa: N818
    """A result that is not what a verification returns; it is refused whole."""


@dataclass(frozen=True)
class CheckResult:
    """One check. message: one plain sentence. case: the smallest input that fails, in words."""

    name: str
    passed: bool
    message: str
    seconds: float
    case: str = ""


@dataclass(frozen=True)
class Verification:
    """What was found out about one candidate.

    slots: what differs from the parent. duplicate_of: a known rule that computes the same function.
    reach: the sequence lengths, of those asked for, at which the candidate differs from its parent (None:
    not measured). cost: figures by name, such as "operations_exponent" or "state_ratio".
    walls: the walls that were up while its code ran. trusted: the language wall was lifted by a person.
    """

    name: str
    passed: bool
    checks: tuple[CheckResult, ...]
    rule_hash: str = ""
    parent: str = ""
    slots: tuple[str, ...] = ()
    duplicate_of: str | None = None
    reach: tuple[int, ...] | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    walls: tuple[str, ...] = ()
    trusted: bool = False

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def reason(self) -> str:
        """Why it was rejected, in one line; empty if it passed."""
        return "; ".join(f"{check.name}: {check.message}" for check in self.failed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only: dictionaries, lists, texts, finite numbers, True, False and None."""
        plain = asdict(self)
        plain["cost"] = dict(self.cost)
        return plain

    @staticmethod
    def from_dict(plain: Any) -> Verification:
        """The verification in a dictionary that came from elsewhere.

        Raises MalformedResult for an unknown or missing field, a wrong type, NaN or infinity, an endless
        text, and for a result that says "passed" over a check that failed.
        """
        values = _fields(plain, _VERIFICATION, "verification")
        if len(values["checks"]) > CHECKS:
            raise MalformedResult(
                f"the result lists {len(values['checks'])} checks, at most {CHECKS} are read"
            )
        checks = tuple(CheckResult(**_fields(check, _CHECK, "check")) for check in values["checks"])
        if values["passed"] and not all(check.passed for check in checks):
            raise MalformedResult("the result says that it passed, but one of its checks did not")
        return Verification(**{**values, "checks": checks})


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > TEXT:
        raise MalformedResult(f"{where}: expected a text of at most {TEXT} characters, got {_short(value)}")
    return value


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise MalformedResult(f"{where}: expected true or false, got {_short(value)}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MalformedResult(f"{where}: expected a finite number, got {_short(value)}")
    return float(value)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedResult(f"{where}: expected a whole number, got {_short(value)}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise MalformedResult(f"{where}: expected a list, got {_short(value)}")
    return list(value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(item, where) for item in _list(value, where))


def _optional_text(value: Any, where: str) -> str | None:
    return None if value is None else _text(value, where)


def _optional_wholes(value: Any, where: str) -> tuple[int, ...] | None:
    return None if value is None else tuple(_whole(item, where) for item in _list(value, where))


def _numbers(value: Any, where: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise MalformedResult(f"{where}: expected figures by name, got {_short(value)}")
    return {_text(name, where): _number(figure, f"{where}.{name}") for name, figure in value.items()}


_CHECK = {"name": _text, "passed": _truth, "message": _text, "seconds": _number, "case": _text}
_VERIFICATION = {
    "name": _text,
    "passed": _truth,
    "checks": _list,
    "rule_hash": _text,
    "parent": _text,
    "slots": _texts,
    "duplicate_of": _optional_text,
    "reach": _optional_wholes,
    "cost": _numbers,
    "walls": _texts,
    "trusted": _truth,
}


def _fields(plain: Any, expected: Mapping[str, Any], what: str) -> dict[str, Any]:
    if not isinstance(plain, dict) or set(plain) != set(expected):
        keys = sorted(map(str, plain)) if isinstance(plain, dict) else _short(plain)
        raise MalformedResult(f"{what}: expected exactly the fields {sorted(expected)}, got {keys}")
    return {name: read(plain[name], f"{what}.{name}") for name, read in expected.items()}


def _short(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
