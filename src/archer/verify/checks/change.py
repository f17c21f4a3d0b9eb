"""Which slots differ from the parent, read from the syntax trees."""

from __future__ import annotations

from archer.rules import SLOTS, Rule
from archer.rules.syntax import slot_syntax
from archer.verify.checks.finding import Finding, check


@check("one change", "It differs from its parent in one slot (more only where that is asked for).")
def one_change(rule: Rule, parent: Rule | None, allow_many: bool) -> Finding:
    """Compares what each slot says, with its helpers and constants; comments and local names do not count."""
    if parent is None:
        return Finding(True, "not applicable: it has no parent")
    changed = changed_slots(rule, parent)
    listed = ", ".join(changed) or "nothing"
    if not changed:
        return Finding(False, f"it says the same as its parent `{parent.name}`", "compared as syntax trees")
    if len(changed) > 1 and not allow_many:
        return Finding(
            False,
            f"it changes {len(changed)} slots of `{parent.name}` at once ({listed}); change one, or ask "
            "for more with --allow-many",
            listed,
        )
    return Finding(True, f"changed: {listed}")


def changed_slots(rule: Rule, parent: Rule) -> tuple[str, ...]:
    """The slots, in the order of the loop, that say something else than the parent's.

    Only slots that run count: a rule with a `step` differs in `step` and `prepare` at most.
    """
    return tuple(slot for slot in (*SLOTS, "step") if _says(rule, slot) != _says(parent, slot))


def _says(rule: Rule, slot: str) -> tuple[str, ...] | None:
    if slot not in rule.slots or ("step" in rule.slots and slot not in ("prepare", "step")):
        return None
    syntax = slot_syntax((rule.source, *rule.ancestry), slot)
    return syntax.normal_form() if syntax else None
