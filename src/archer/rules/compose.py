"""The slot language: new rules from the slots of others.

    compose("similarity=hybrid, retain=decay(gamma=0.9)", parent="delta_net")

The result is an ordinary rule, with the text of an ordinary rule file: functions, constants and declarations
are copied from the files that they stand in, at the level of the syntax tree. The same choices give the
same text in whatever order they are written, and so the same hash; choices that amount to a rule of the
library give that rule.
"""

from __future__ import annotations

import ast
import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from archer.errors import unknown
from archer.rules.registry import BASE, get_rule, rule_names
from archer.rules.rule import SLOTS, Draw, Feature, Parameter, Rule, RuleError, load_rule
from archer.rules.syntax import Definition, SlotSyntax, slot_syntax, slots_differing
from archer.rules.text import RuleText, add_slot, import_lines

__all__ = [
    "Choice",
    "Constant",
    "Grammar",
    "alternatives",
    "compose",
    "constants",
    "grammar",
    "slots_differing",
]

Find = Callable[[str], Rule]
CHOICE = re.compile(r"^\s*(\w+)\s*=\s*([\w.-]+)\s*(?:\((.*)\))?\s*$")


@dataclass(frozen=True)
class Choice:
    """One slot taken from one rule, with the first values of some of its constants changed."""

    slot: str
    rule: str
    constants: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        inside = ",".join(f"{name}={value!r}" for name, value in self.constants)
        return f"{self.slot}={self.rule}" + (f"({inside})" if inside else "")


@dataclass(frozen=True)
class Constant:
    """A number that a composition may set: its first value, and the open interval to choose from."""

    initial: float
    low: float
    high: float
    whole: bool = False

    def check(self, name: str, value: float) -> None:
        """Raises RuleError for a value outside the interval."""
        if not self.low < value < self.high or (self.whole and value != int(value)):
            kind = "a whole number" if self.whole else "a number"
            message = (
                f"constant `{name}` is {value!r}, expected {kind} between {self.low:g} and {self.high:g}"
            )
            raise RuleError(message)


@dataclass(frozen=True)
class Grammar:
    """The space of compositions on one parent.

    slots: the rules that each slot may come from (the parent's own is written as the parent's name).
    together: slots that only work with another slot of the same rule. size: distinct rules, constants aside.
    """

    parent: str
    slots: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, Mapping[str, Constant]]
    together: tuple[tuple[str, str, str], ...]
    size: int

    def __str__(self) -> str:
        lines = ['composition = slot "=" rule ["(" constant "=" number {"," ...} ")"] {"," composition}']
        lines += [f"{slot:<11}= {' | '.join(rules)}" for slot, rules in self.slots.items()]
        for choice, numbers in self.constants.items():
            for name, x in numbers.items():
                lines.append(f"{choice}: {name} = {x.initial:g}, between {x.low:g} and {x.high:g}")
        lines += [f"{slot}={rule} comes with {other}={rule}" for rule, slot, other in self.together]
        return "\n".join([*lines, f"{self.size} rules on {self.parent}, constants aside"])


def compose(choices: str | Mapping[str, str], parent: str = BASE, find: Find = get_rule) -> Rule:
    """A rule from slots of other rules.

    choices: "slot=rule, slot=rule(constant=number)", or the same as a mapping, or the whole name of a
    composed rule ("delta_net+retain=decay"). Slots that work only together (a `similarity` that reads what
    its own `prepare` computed) are completed. Raises UserError for unknown slots, rules and constants, with
    the nearest names.
    """
    if isinstance(choices, str) and (whole := re.match(r"^\s*(\w+)\+", choices)):
        parent, choices = whole[1], choices[whole.end() :]
    base = find(parent)
    parsed = _parsed(choices)
    chosen = _completed(_resolved(parsed, base, find), {choice.slot for choice in parsed}, base, find)
    if not chosen:
        return base
    name = "+".join([parent, *sorted(str(choice) for choice in chosen)])
    rule = load_rule(_source(chosen, base, name, find), name, find)
    library = (get_rule(known) for known in rule_names())
    return next((known for known in library if _same(known, rule, base, chosen, find)), rule)


def alternatives(
    slot: str, parent: str = BASE, more: Mapping[str, Rule] = MappingProxyType({})
) -> tuple[str, ...]:
    """The rules that say something of their own in this slot, the parent's own first: the library's, then
    those of `more` (further rules by name, such as a project's).

    Of rules that say the same, the one nearest to delta_net stands for all.
    """
    _check_slot(slot)
    rules = {**{name: get_rule(name) for name in rule_names()}, **more}
    nearest = sorted(rules.values(), key=lambda rule: len(rule.ancestry))
    found = {_meaning(rule, slot): rule.name for rule in reversed(nearest) if slot in rule.own}
    first = found.setdefault(_meaning(rules.get(parent) or get_rule(parent), slot), parent)
    return (first, *(name for name in rules if name in found.values() and name != first))


def _meaning(rule: Rule, slot: str) -> tuple[str, ...]:
    """Equal for slots that compute the same; one that reads what its own `prepare` adds is only itself."""
    syntax = _syntax(rule, slot)
    with_prepare = _syntax(rule, "prepare").normal_form() if syntax.prepared else ()
    return (*syntax.normal_form(), *with_prepare)


def constants(rule: str | Rule, slot: str, find: Find = get_rule) -> dict[str, Constant]:
    """The numbers of a slot that a composition may set: first values, biases, upper-case constants."""
    _check_slot(slot)
    owner = find(rule) if isinstance(rule, str) else rule
    syntax = _syntax(owner, slot)
    declared = {**owner.parameters, **owner.features}
    found = {name: _declared_constant(declared[name]) for name in syntax.definitions if name in declared}
    plain = {name: _plain_constant(x.node) for name, x in syntax.definitions.items() if name.isupper()}
    return {name: constant for name, constant in {**found, **plain}.items() if constant is not None}


def grammar(parent: str = BASE, more: Mapping[str, Rule] = MappingProxyType({})) -> Grammar:
    """The slots, the alternatives of each, their constants, and the size of the space.

    more: further rules by name, such as a project's. Raises UserError for a parent without slots.
    """
    slots = {slot: alternatives(slot, parent, more) for slot in SLOTS}
    pairs = [(slot, name, more.get(name) or get_rule(name)) for slot in SLOTS for name in slots[slot]]
    named = [pair for pair in pairs if "+" not in pair[1]]  # a composition is no name to write after a slot
    numbers = {f"{slot}={name}": constants(rule, slot) for slot, name, rule in named}
    together = tuple((name, slot, other) for slot, name, rule in pairs for other in _companions(rule, slot))
    return Grammar(parent, slots, {k: v for k, v in numbers.items() if v}, together, _size(slots, together))


def _size(slots: Mapping[str, tuple[str, ...]], together: tuple[tuple[str, str, str], ...]) -> int:
    """Slots are chosen freely, but where `prepare` brings its own similarity both come as one."""
    bound = {slot for rule, slot, other in together} - {"prepare"}
    tied = {rule for rule, slot, _ in together if slot == "prepare"}
    free = math.prod(len(slots[slot]) for slot in SLOTS if slot != "prepare" and slot not in bound)
    loose = math.prod(sum(rule not in tied for rule in slots[slot]) for slot in bound)
    return free * ((len(slots["prepare"]) - len(tied)) * loose + len(tied))


def _parsed(choices: str | Mapping[str, str]) -> list[Choice]:
    if isinstance(choices, Mapping):
        choices = ", ".join(f"{slot}={rule}" for slot, rule in choices.items())
    parts = re.split(r"[,+]\s*(?![^()]*\))", choices)
    return [_parsed_choice(part, choices) for part in parts if part.strip()]


def _parsed_choice(part: str, whole: str) -> Choice:
    match = CHOICE.match(part)
    if match is None:
        raise RuleError(
            f"cannot read '{part.strip()}' in '{whole}': expected slot=rule or "
            "slot=rule(constant=number), e.g. 'similarity=hybrid, retain=decay(gamma=0.9)'"
        )
    slot, rule, inside = match.groups()
    _check_slot(slot)
    return Choice(
        slot, rule, tuple(_parsed_number(pair) for pair in (inside or "").split(",") if pair.strip())
    )


def _parsed_number(pair: str) -> tuple[str, float]:
    name, _, text = (part.strip() for part in pair.partition("="))
    try:
        value = float(text)
    except ValueError:
        raise RuleError(f"constant `{name}` is '{text}', expected a number, e.g. {name}=0.9") from None
    return name, value


def _check_slot(slot: str) -> None:
    if slot not in SLOTS:
        raise unknown("slot", slot, SLOTS)


def _resolved(parsed: list[Choice], base: Rule, find: Find) -> list[Choice]:
    """Every slot once, named by the rule that defines it, constants at other than first values only."""
    slots = [choice.slot for choice in parsed]
    twice = [slot for slot in slots if slots.count(slot) > 1]
    if twice:
        raise RuleError(f"slot `{twice[0]}` is given {slots.count(twice[0])} times; give each slot once")
    resolved = []
    for choice in parsed:
        rule = find(choice.rule)
        numbers = _checked_constants(choice, rule, find)
        origin = _origin(rule, choice.slot, find)
        if numbers or origin != _origin(base, choice.slot, find):
            resolved.append(Choice(choice.slot, origin, numbers))
    return sorted(resolved, key=lambda choice: SLOTS.index(choice.slot))


def _checked_constants(choice: Choice, rule: Rule, find: Find) -> tuple[tuple[str, float], ...]:
    known = constants(rule, choice.slot, find)
    kept = []
    for name, value in choice.constants:
        if name not in known:
            raise unknown(f"constant of {choice.slot}={choice.rule}", name, known)
        known[name].check(name, value)
        if value != known[name].initial:
            kept.append((name, int(value) if known[name].whole else value))
    return tuple(sorted(kept))


def _completed(chosen: list[Choice], given: set[str], base: Rule, find: Find) -> list[Choice]:
    """Adds the slots without which a chosen one does not work; refuses what contradicts them."""
    by_slot = {choice.slot: choice for choice in chosen}
    for choice in chosen:
        for other in _companions(find(choice.rule), choice.slot):
            kept = Choice(other, _origin(base, other, find)) if other in given else Choice(other, choice.rule)
            there = by_slot.setdefault(other, kept)
            if there.rule != choice.rule:
                needed = f"{other}={choice.rule}"
                raise RuleError(f"{choice.slot}={choice.rule} needs {needed}, but {there} was given")
    if "prepare" in by_slot and by_slot["prepare"].rule != _origin(base, "prepare", find):
        for slot in SLOTS[1:]:
            if slot not in by_slot and _syntax(base, slot).prepared:
                by_slot[slot] = Choice(slot, BASE)
    return sorted(by_slot.values(), key=lambda choice: SLOTS.index(choice.slot))


def _companions(rule: Rule, slot: str) -> tuple[str, ...]:
    """The slots of the same rule that this one needs: `prepare`, and who reads what it adds."""
    tied = [other for other in SLOTS[1:] if _syntax(rule, other).prepared]
    if slot == "prepare":
        return tuple(tied)
    return ("prepare",) if slot in tied else ()


def _syntax(rule: Rule, slot: str) -> SlotSyntax:
    syntax = slot_syntax((rule.source, *rule.ancestry), slot)
    if syntax is None:
        raise RuleError(
            f"rule {rule.name} replaces the whole loop by `step`; it has no slot `{slot}` to take"
        )
    return syntax


def _origin(rule: Rule, slot: str, find: Find) -> str:
    """The name of the rule, among this one and its ancestors, whose file defines the slot; of rules of the
    library that say the same, the one that stands for all."""
    for _ in range(_syntax(rule, slot).depth):
        assert rule.parent is not None
        rule = find(rule.parent)
    return _representatives(slot).get(_meaning(rule, slot), rule.name)


@cache
def _representatives(slot: str) -> dict[tuple[str, ...], str]:
    return {_meaning(get_rule(name), slot): name for name in alternatives(slot)}


def _source(chosen: list[Choice], base: Rule, name: str, find: Find) -> str:
    text = RuleText()
    taken = {*base.parameters, *base.features, *base.carries}
    family = _family(base, find)
    for choice in chosen:
        origin = find(choice.rule)
        syntax = _numbered(_syntax(origin, choice.slot), chosen, choice.rule)
        add_slot(text, syntax, origin, () if origin.name in family else taken)
    return _rendered(text, chosen, base, name, find)


def _family(rule: Rule, find: Find) -> set[str]:
    names = {rule.name}
    while rule.parent is not None:
        rule = find(rule.parent)
        names.add(rule.name)
    return names


def _numbered(syntax: SlotSyntax, chosen: list[Choice], rule: str) -> SlotSyntax:
    """The slot with the constants that any slot of the same rule was given."""
    numbers: dict[str, float] = {}
    for choice in chosen:
        for name, value in choice.constants if choice.rule == rule else ():
            if numbers.setdefault(name, value) != value:
                raise RuleError(f"constant `{name}` of {rule} is given as {numbers[name]!r} and as {value!r}")
    definitions = dict(syntax.definitions)
    for name in numbers.keys() & definitions.keys():
        definitions[name] = _with_number(definitions[name], numbers[name])
    return SlotSyntax(syntax.slot, syntax.function, definitions, syntax.prepared, syntax.depth)


def _with_number(definition: Definition, value: float) -> Definition:
    node = copy.deepcopy(definition.node)
    assert isinstance(node, ast.Assign)
    kind, number = definition.kind, ast.Constant(value)
    if kind is None:
        node.value = number
        return Definition(node, ast.unparse(node))
    keyword = "initial" if kind == "Parameter" else "bias"
    assert isinstance(node.value, ast.Call)
    node.value.keywords = [k for k in node.value.keywords if k.arg != keyword]
    if kind == "Parameter":
        node.value.args[:1] = [number]
    else:
        node.value.keywords.append(ast.keyword(keyword, number))
    return Definition(node, ast.unparse(node))


def _rendered(text: RuleText, chosen: list[Choice], base: Rule, name: str, find: Find) -> str:
    blocks = [_docstring(chosen, base, name, find), import_lines(text.imports)]
    blocks.append("\n".join([f"parent = {base.name!r}".replace("'", '"'), *text.values.values()]))
    functions = [*text.helpers.values(), *(text.slots[slot] for slot in SLOTS if slot in text.slots)]
    return "\n\n".join(block for block in blocks if block) + "\n\n\n" + "\n\n\n".join(functions) + "\n"


def _docstring(chosen: list[Choice], base: Rule, name: str, find: Find) -> str:
    lines = []
    for choice in chosen:
        origin = find(choice.rule)
        numbers = ", ".join(f"{n} = {value:g}" for n, value in choice.constants)
        equation = origin.equation.replace("\n", "\n        ") or origin.title
        lines.append(f"    {choice.slot} of {choice.rule}{f' with {numbers}' if numbers else ''}: {equation}")
    sources = "; ".join(dict.fromkeys(find(choice.rule).citation for choice in chosen))
    text = "\n".join([f"{name}.", "", *lines, "", f"Source: composed on {base.name} ({sources})"])
    return '"""' + text.replace("\\", "\\\\").replace('"""', "'''") + '\n"""'


def _same(known: Rule, rule: Rule, base: Rule, chosen: list[Choice], find: Find) -> bool:
    """Whether a rule of the library says in every slot what this composition says there."""
    if known.layer != rule.layer or any(choice.constants for choice in chosen):
        return False
    origins = {slot: _origin(base, slot, find) for slot in SLOTS} | {c.slot: c.rule for c in chosen}
    return all(_meaning(find(origins[slot]), slot) == _meaning(known, slot) for slot in SLOTS)


def _declared_constant(declared: Parameter | Feature) -> Constant | None:
    if isinstance(declared, Feature):
        return None if declared.bias is None else Constant(declared.bias, -10.0, 10.0)
    initial = declared.initial
    if isinstance(initial, Draw):
        return None
    if declared.within is None:
        return Constant(initial, initial - 1.0, initial + 1.0)
    low, high = declared.within
    return Constant(initial, low, high if math.isfinite(high) else 10 * initial)


def _plain_constant(node: ast.stmt) -> Constant | None:
    value = node.value if isinstance(node, ast.Assign) else None
    if not isinstance(value, ast.Constant) or isinstance(value.value, bool):
        return None
    number = value.value
    if isinstance(number, int):
        return Constant(number, 0, 8 * number, whole=True)
    return Constant(number, number / 1000, number * 1000) if isinstance(number, float) else None
