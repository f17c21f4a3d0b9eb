"""Frozen records to JSON and back, each value held against its declared type.

Strict on the way in, so that nothing wrong is ever kept: a number that is not finite, a score outside 0 to 1,
or a value of another type is refused with the path to it. Lenient on the way out only where time passes:
a field that an older version did not know takes its default, a field that a newer version added is left
unread. Tuples inside the free-form dictionaries (`passed`, `effective`, `settings`) come back as lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from archer.ledger.problems import LedgerError
from archer.ledger.records import CurvePoint, PredictionScore, RunRecord, TaskComparison

Record = TypeVar("Record")

SCORES: dict[type, tuple[str, ...]] = {
    RunRecord: ("mad", "held_out", "validation"),
    CurvePoint: ("validation_accuracy", "test_accuracy"),
    TaskComparison: ("candidate", "baseline"),
    PredictionScore: ("measured",),
}
"""Fields that hold a score: a number from 0 to 1, or None."""


def to_json(record: Any) -> str:
    """The record as one line of JSON, keys in a fixed order.

    Raises:
        LedgerError: naming the field, the value and what belongs there.
    """
    identity = next((getattr(record, name) for name in ("key", "id", "rule") if hasattr(record, name)), "")
    plain = _encode(record, type(record), f"{type(record).__name__}[{identity}]")
    _check_sense(record)
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_json(kind: type[Record], text: str, where: str) -> Record:
    """The record that `to_json` wrote; `where` names its place in an error.

    Raises:
        LedgerError: where the text is no such record.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise LedgerError(
            f"{where}: the stored record is not JSON ({error}); the ledger is damaged"
        ) from error
    return _decode(plain, kind, where)


def _check_sense(record: Any) -> None:
    """A finished run has its three scores; any other has none."""
    if not isinstance(record, RunRecord):
        return
    scores = {name: getattr(record, name) for name in SCORES[RunRecord]}
    wrong = [name for name, score in scores.items() if (score is None) == (record.status == "finished")]
    if wrong:
        raise LedgerError(
            f"RunRecord[{record.key}] is {record.status}, and {', '.join(wrong)} is {scores[wrong[0]]!r}: "
            "a finished run has its three scores, any other has none (None)"
        )


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _form(hint: Any) -> tuple[bool, Any, tuple[Any, ...]]:
    """Whether a declared type is a record; its origin; its arguments: asked for every value of every run."""
    return is_dataclass(hint), get_origin(hint), get_args(hint)


def _refuse(where: str, value: Any, expected: str) -> LedgerError:
    return LedgerError(f"{where} is {value!r} ({type(value).__name__}): expected {expected}")


def _encode(value: Any, hint: Any, where: str) -> Any:
    is_record, origin, arguments = _form(hint)
    if is_record:
        return _encode_record(value, hint, where)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return _encode(value, inner, where)
    if origin is Literal:
        if value not in arguments:
            raise _refuse(where, value, f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, tuple):
            raise _refuse(where, value, "a tuple")
        return [_encode(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        return _encode_mapping(value, arguments[1], where)
    return _encode_free(value, where) if hint is Any else _encode_plain(value, hint, where)


def _encode_record(value: Any, kind: Any, where: str) -> dict[str, Any]:
    if type(value) is not kind:
        raise _refuse(where, value, f"a {kind.__name__}")
    hints, scores, plain = _hints(kind), SCORES.get(kind, ()), {}
    for name in (field.name for field in fields(kind)):
        item, place = getattr(value, name), f"{where}.{name}"
        plain[name] = _encode(item, hints[name], place)
        if name in scores:
            _check_score(item, place)
    return plain


def _check_score(value: float | None, where: str) -> None:
    if value is not None and not 0 <= value <= 1:
        raise _refuse(where, value, "a score from 0 to 1, or None")


def _encode_mapping(value: Any, hint: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(where, value, "a dictionary")
    for name in value:
        if not isinstance(name, str):
            raise _refuse(f"a key of {where}", name, "a text")
    return {name: _encode(item, hint, f"{where}[{name!r}]") for name, item in value.items()}


def _encode_plain(value: Any, hint: type, where: str) -> Any:
    """A bool is no number here, and an int may stand for a float."""
    accepted = (float, int) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise _refuse(where, value, f"a {hint.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _refuse(where, value, "a finite number, or None where there is none")
    return float(value) if hint is float else value


def _encode_free(value: Any, where: str) -> Any:
    """Anything that JSON has: the contents of the free-form dictionaries."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return _encode_plain(value, type(value), where)
    if isinstance(value, Mapping):
        return _encode_mapping(value, Any, where)
    if isinstance(value, list | tuple):
        return [_encode_free(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise _refuse(where, value, "a text, number, bool, None, list or dictionary")


def _decode(value: Any, hint: Any, where: str) -> Any:
    is_record, origin, arguments = _form(hint)
    if is_record:
        return _decode_record(value, hint, where)
    if origin in (Union, UnionType):
        if value is None:
            return None
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return _decode(value, inner, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise LedgerError(f"{where} is {value!r}: expected a list; the ledger is damaged")
        return tuple(_decode(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict or hint is Any:
        return value
    return _encode(value, hint, where)


def _decode_record(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise LedgerError(f"{where} is {value!r}: expected a {kind.__name__}; the ledger is damaged")
    hints, arguments = _hints(kind), {}
    for field in fields(kind):
        if field.name in value:
            arguments[field.name] = _decode(value[field.name], hints[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise LedgerError(
                f"{where} has no '{field.name}', which every {kind.__name__} has; the ledger is damaged"
            )
    for name in SCORES.get(kind, ()):
        _check_score(arguments[name], f"{where}.{name}")
    return kind(**arguments)
