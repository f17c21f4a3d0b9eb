"""Training: many runs as one batched program, and the processes on the devices that do it.

A fleet trains the members of one group (equal shapes, one rule) side by side, and each ends where it would
end alone. Runs and outcomes are plain values, and so are the plan and the options of training. The two entry
points have the names of their modules and are taken from there: `archer.fleet.train.train` trains in this
process, `archer.fleet.launch.launch` in processes of its own, one per device, which may die and are taken up
again.

Names load what they need when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer.fleet.launch import Crash
    from archer.fleet.process import Plan
    from archer.fleet.run import Evaluation, Outcome, Recipe, Run, Subject
    from archer.fleet.train import Options

_MODULES = {
    "launch": ("Crash",),
    "process": ("Plan",),
    "run": ("Evaluation", "Outcome", "Recipe", "Run", "Subject"),
    "train": ("Options",),
}

_EXPORTS = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["Crash", "Evaluation", "Options", "Outcome", "Plan", "Recipe", "Run", "Subject"]


def __getattr__(name: str) -> Any:
    """Load a public name's module when the name is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'archer.fleet' has no attribute {name!r}")
    value = getattr(import_module(f"archer.fleet.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
