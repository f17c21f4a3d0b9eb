"""One research cycle, and its parts for people: `run`, `bench`, `try_rule`; and many of them: `discover`.

`project` is a folder with its ledger; `plan` turns rules and a preset into runs; `training` trains what the
ledger lacks; `cycle` is the cycle itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer.cycle.campaign import Discovery, discover
    from archer.cycle.cycle import Result, bench, run, submit, try_rule
    from archer.cycle.measuring import Judging
    from archer.cycle.project import Project
    from archer.cycle.watch import Watcher

__all__ = [
    "Discovery",
    "Judging",
    "Project",
    "Result",
    "Watcher",
    "bench",
    "discover",
    "run",
    "submit",
    "try_rule",
]

_HOME = {
    "Result": "cycle",
    "bench": "cycle",
    "run": "cycle",
    "submit": "cycle",
    "try_rule": "cycle",
    "Discovery": "campaign",
    "discover": "campaign",
    "Judging": "measuring",
    "Project": "project",
    "Watcher": "watch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'archer.cycle' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"archer.cycle.{_HOME[name]}"), name)
