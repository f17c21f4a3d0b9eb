"""The rules that Archer knows by name: one file each in `library`, found by its file name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from archer.errors import unknown
from archer.rules.rule import Rule, load_rule

LIBRARY = Path(__file__).parent / "library"
REFERENCE = "gated_delta_net"
BASE = "delta_net"


@cache
def rule_names() -> tuple[str, ...]:
    """The names of all built-in rules: delta_net and gated_delta_net first, the others by alphabet."""
    found = sorted(path.stem for path in LIBRARY.glob("*.py") if not path.stem.startswith("_"))
    return (BASE, REFERENCE, *(name for name in found if name not in (BASE, REFERENCE)))


@cache
def get_rule(name: str) -> Rule:
    """A built-in rule, or a composition by its name ("delta_net+retain=decay").

    Raises UserError with the nearest names if there is none.
    """
    if "+" in name:
        from archer.rules.compose import compose

        return compose(name)
    if name not in rule_names():
        raise unknown("rule", name, rule_names())
    return load_rule((LIBRARY / f"{name}.py").read_text(encoding="utf-8"), name, get_rule)


@cache
def _history_names() -> dict[str, str]:
    return {alias: name for name in rule_names() for alias in get_rule(name).history}


def resolve_history_name(model: str) -> str | None:
    """The rule that a history table means by a model's name, or None.

    Accepts the long form (`delta_net_4layer_decay_state_update_in_for_loop`), the bare note
    (`decay_state_update_in_for_loop`) and a rule's own name.
    """
    names = _history_names()
    for candidate in (model, model.removeprefix("delta_net_4layer_")):
        if candidate in names:
            return names[candidate]
        if candidate in rule_names():
            return candidate
    return None
