"""What differs from the parent: slots, read from the syntax trees, and what stands around the loop."""

from __future__ import annotations

from dataclasses import asdict

from archer.rules import SLOTS, Rule
from archer.rules.syntax import slot_syntax
from archer.verify.checks.finding import Finding, check


@check("one change", "It differs from its parent in one slot (more only where that is asked for).")
def one_change(rule: Rule, parent: Rule | None, allow_many: bool) -> Finding:
    """Compares what each slot says, with its helpers, constants and declarations; comments do not count.

    A wider state or another gate in `layer` is a change too: a score that it moves would be put down to the
    slot.
    """
    if parent is None:
        return Finding(True, "not applicable: it has no parent")
    slots, layer = changed_slots(rule, parent), _changed_layer(rule, parent)
    changed, listed = (*slots, *layer), ", ".join((*slots, *layer))
    if not slots:
        beside = f", but for {listed}; a rule changes a slot, and leaves `layer` out" if layer else ""
        return Finding(
            False, f"it says the same as its parent `{parent.name}`{beside}", "compared as syntax trees"
        )
    if len(changed) > 1 and not allow_many:
        what = "things" if layer else "slots"
        return Finding(
            False,
            f"it changes {len(changed)} {what} of `{parent.name}` at once ({listed}); change one, or ask "
            "for more with --allow-many",
            listed,
        )
    return Finding(True, f"changed: {listed}")


def _changed_layer(rule: Rule, parent: Rule) -> tuple[str, ...]:
    mine, before = asdict(rule.layer), asdict(parent.layer)
    return tuple(f"layer.{n} {before[n]} → {mine[n]}" for n in mine if mine[n] != before[n])


def changed_slots(rule: Rule, parent: Rule) -> tuple[str, ...]:
    """The slots, in the order of the loop, that say something else than the parent's.

    Only slots that run count: a rule with a `step` differs in `step` and `prepare` at most.
    """
    running = ("prepare", "step") if "step" in rule.slots else (*SLOTS, "step")
    return tuple(slot for slot in running if _says(rule, slot) != _says(parent, slot))


def _says(rule: Rule, slot: str) -> tuple[str, ...] | None:
    if slot not in rule.slots or ("step" in rule.slots and slot not in ("prepare", "step")):
        return None
    syntax = slot_syntax((rule.source, *rule.ancestry), slot)
    declared = {**rule.parameters, **rule.features, **rule.carries}
    # as they came out, too: how a text arrives at a declaration can be written so that nobody sees it
    values = tuple(repr(declared[name]) for name in rule.arguments(slot) if name in declared)
    return (*syntax.normal_form(), *values) if syntax else None
