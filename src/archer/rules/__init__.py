"""Rules: the chunk loop, its slots, and one file per named rule.

A rule file imports its declarations from here: `Parameter`, `Feature`, `Carried`, `Draw`, `Layer`, and
the algebra `wy`. Everything is loaded on first use; importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archer.rules.registry import BASE, REFERENCE, get_rule, resolve_history_name, rule_names
from archer.rules.rule import (
    PREPARED,
    SLOTS,
    VOCABULARY,
    Carried,
    Draw,
    Feature,
    Layer,
    Parameter,
    Rule,
    RuleError,
    load_rule,
)

if TYPE_CHECKING:
    from archer.rules.algebra import faded_products, invert_unit_lower, rotate, wy
    from archer.rules.loop import chunk_loop, initial_state

__all__ = [
    "BASE", "PREPARED", "REFERENCE", "SLOTS", "VOCABULARY", "Carried", "Draw", "Feature", "Layer",
    "Parameter", "Rule", "RuleError", "chunk_loop", "faded_products", "get_rule", "initial_state",
    "invert_unit_lower", "load_rule", "resolve_history_name", "rotate", "rule_names", "wy",
]  # fmt: skip

_LAZY = {
    "wy": "archer.rules.algebra",
    "rotate": "archer.rules.algebra",
    "faded_products": "archer.rules.algebra",
    "invert_unit_lower": "archer.rules.algebra",
    "chunk_loop": "archer.rules.loop",
    "initial_state": "archer.rules.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'archer.rules' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
