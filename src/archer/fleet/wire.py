"""Runs and outcomes as JSON: how a training process is told what to do, and how it answers.

What comes back is checked field by field: a training process executes foreign code, and is not believed.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, get_args, get_type_hints

from archer.fleet.run import Evaluation, Outcome, Recipe, Run, Subject
from archer.mad import Setting

STATUSES = get_args(get_type_hints(Outcome)["status"])

TOLD = {
    "fleet": ("subject", "settings", "members", "epochs", "parameters", "ages"),
    "steps": ("epoch", "ages"),
    "epoch": ("epoch", "ages", "best"),
    "smaller": ("members",),
    "plainer": ("subject", "without", "message"),
    "alone": ("subject", "message"),
    "unsaved": ("message",),
}
"""Events that somebody who watches is told, and what must be in them."""
NUMBERS = ("epoch", "epochs", "members", "parameters", "waiting", "runs")


def runs_to_json(runs: list[Run]) -> dict[str, Any]:
    """Plain data from which `runs_from_json` makes the same runs; every subject is written once."""
    subjects = {run.subject.hash: asdict(run.subject) for run in runs}
    listed = [
        {"subject": run.subject.hash, "setting": asdict(run.setting), "recipe": asdict(run.recipe),
         "learning_rate": run.learning_rate, "weight_decay": run.weight_decay, "seed": run.seed}
        for run in runs
    ]  # fmt: skip
    return {"subjects": subjects, "runs": listed}


def runs_from_json(data: dict[str, Any]) -> list[Run]:
    """The runs that `runs_to_json` wrote."""
    subjects = {key: _subject(value) for key, value in data["subjects"].items()}
    return [
        Run(subjects[item["subject"]], Setting(**item["setting"]), Recipe(**item["recipe"]),
            item["learning_rate"], item["weight_decay"], item["seed"])
        for item in data["runs"]
    ]  # fmt: skip


def _subject(data: dict[str, Any]) -> Subject:
    pairs = {name: tuple((str(k), v) for k, v in data[name]) for name in ("sources", "arguments")}
    return Subject(**{**data, **pairs})


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Plain data; the curve as rows of numbers."""
    return {**asdict(outcome), "curve": [list(asdict(point).values()) for point in outcome.curve]}


def outcome_from_json(data: Any, expected: set[str]) -> Outcome:
    """An outcome of one of the expected runs. Raises ValueError where anything is not as it must be."""
    if not isinstance(data, dict) or set(data) != set(Outcome.__dataclass_fields__):
        raise ValueError(
            f"expected an outcome with {', '.join(Outcome.__dataclass_fields__)}, got {data!r:.200}"
        )
    if data["key"] not in expected:
        raise ValueError(f"an outcome for run {data['key']!r:.40}, which was not asked for")
    if data["status"] not in STATUSES:
        raise ValueError(f"status {data['status']!r:.40}, expected {', '.join(STATUSES)}")
    scores = {name: _score(name, data[name], data["status"]) for name in ("mad", "held_out", "validation")}
    curve = tuple(_point(row) for row in data["curve"])
    numbers = {name: _number(name, data[name]) for name in ("epochs", "parameters", "wall_seconds")}
    return Outcome(
        data["key"], data["status"], **scores, epochs=int(numbers["epochs"]), curve=curve,
        parameters=int(numbers["parameters"]), wall_seconds=numbers["wall_seconds"],
        device=_text(data["device"])[:100], message=_text(data["message"]),
    )  # fmt: skip


def event_from_json(event: dict[str, Any]) -> dict[str, Any]:
    """An event as it may be told on. Raises ValueError where anything is not as it must be."""
    missing = [name for name in TOLD.get(event["event"], ()) if name not in event]
    if missing:
        raise ValueError(f"the event {event['event']} lacks {', '.join(missing)}")
    return {name: _told(name, value) for name, value in event.items()}


def _told(name: str, value: Any) -> Any:
    if name in NUMBERS:
        return _number(name, value)
    if name in ("ages", "best") and isinstance(value, dict):
        return {_text(key): _number(f"{name} of {key:.40}", number) for key, number in value.items()}
    if name == "settings" and isinstance(value, list):
        return [_text(one) for one in value]
    if name in ("ages", "best", "settings") or isinstance(value, dict | list):
        raise ValueError(f"{name} is {value!r:.40}")
    return _text(value)


def _text(value: Any) -> str:
    """In one piece, and nothing that moves a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in str(value)[:1000])


def _score(name: str, value: Any, status: str) -> float | None:
    if status != "finished":
        if value is not None:
            raise ValueError(f"{name} is {value!r:.40}, but a {status} run has no score")
        return None
    number = _number(name, value)
    if number > 1 + 1e-6:
        raise ValueError(f"{name} is {number}, expected 0 to 1")
    return min(number, 1.0)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r:.40}, expected a finite number of at least 0")
    return value


def _point(row: Any) -> Evaluation:
    names = tuple(Evaluation.__dataclass_fields__)
    if not isinstance(row, list) or len(row) != len(names):
        raise ValueError(f"a curve point {row!r:.80}, expected {len(names)} numbers")
    return Evaluation(
        int(_number("epoch", row[0])), *(_number(n, x) for n, x in zip(names[1:], row[1:], strict=True))
    )
