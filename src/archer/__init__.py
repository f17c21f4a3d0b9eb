"""Archer: an autonomous laboratory for linear attention.

    import archer

    archer.bench(["delta_net", "softmax"], preset="smoke")   # train and compare named rules
    archer.run(preset="smoke")                               # one research cycle
    archer.try_rule("my_rule.py", preset="smoke")            # the same cycle with a rule of your own

Importing this package is quick and silent: torch and pandas are loaded by what needs them, when it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer import rules
    from archer.cycle import bench, discover, run, try_rule
    from archer.ledger import Ledger

__version__ = "0.1.0"

__all__ = ["Ledger", "__version__", "bench", "discover", "rules", "run", "try_rule"]

EXPORTS = {
    "run": ("archer.cycle", "run"),
    "bench": ("archer.cycle", "bench"),
    "try_rule": ("archer.cycle", "try_rule"),
    "discover": ("archer.cycle", "discover"),
    "Ledger": ("archer.ledger", "Ledger"),
    "rules": ("archer.rules", None),
}
"""Public name: the module that holds it, and its name there (None: the module itself)."""


def __getattr__(name: str) -> Any:
    """Load a public name from its room when it is first asked for."""
    if name not in EXPORTS:
        raise AttributeError(f"module 'archer' has no attribute '{name}'; it has: {', '.join(__all__)}")
    module_name, attribute = EXPORTS[name]
    module = import_module(module_name)
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
