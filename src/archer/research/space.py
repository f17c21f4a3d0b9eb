"""The space that is searched: what a rule is made of, slot by slot, and what one change makes of it.

A rule is described by its `Composition`: for every slot that is not delta_net's own, a label (which change),
a family (what it resembles) and its constants. It is read from rule files as text, so rules written by a
template, a model or a person are described in the same way; unknown slot code is a label of its own.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from archer.research.rule_text import (
    RuleText,
    SlotText,
    arguments,
    chain,
    defining,
    read_rule,
    rule_hash,
    set_onto,
    slot_text,
    write_rule_file,
)
from archer.research.templates import STATE_SLOTS, TEMPLATES, Template, slot_with_line_in_front
from archer.rules.rule import SLOTS, Rule

FAMILIES: Mapping[tuple[str, str], str] = {
    ("similarity", "softmax"): "softmax",
    ("similarity", "softmax_scaled"): "softmax",
    ("similarity", "cosine_softmax"): "softmax",
    ("similarity", "hybrid"): "mixture",
    ("similarity", "hybrid_half"): "mixture",
    ("similarity", "hybrid_sum"): "mixture",
    ("similarity", "sigmoid_gate"): "gated",
    ("read", "local_softmax"): "mixture",
    ("retain", "decay"): "decay",
    ("retain", "adaptive_decay"): "decay",
    ("write", "momentum"): "momentum",
    ("write", "adam"): "rescaled",
    ("write", "rmsprop"): "rescaled",
    ("write", "layernorm_write"): "rescaled",
    ("write", "error_gated"): "surprise",
    ("write", "topk_error"): "sparse",
    ("correct", "gelu_error"): "sparse",
}
"""What built-in slots resemble; a slot that is not listed resembles only itself."""


BETA = "beta"
"""A line in front of a preparation that changes beta only: it is described apart from the preparation
itself."""

ORDER = ("prepare", BETA, *SLOTS[1:], "step")
"""Where a choice stands in a composition."""


@dataclass(frozen=True)
class Choice:
    """One slot's content. constants: its learned numbers' first values, on a scale where 1 is a large
    step."""

    slot: str
    label: str
    family: str
    constants: tuple[float, ...] = ()
    reads_state: bool = False


Composition = tuple[Choice, ...]
"""A rule's choices in the order of the slots; empty for delta_net."""


@dataclass(frozen=True)
class Change:
    """One slot of a known parent replaced. values: the template's constants; donor: the rule a slot is taken
    from."""

    parent: str
    slot: str
    label: str
    name: str
    composition: Composition
    template: Template | None = None
    values: tuple[tuple[str, float], ...] = ()
    donor: str | None = None

    @property
    def key(self) -> str:
        """The same for every way to the same composition."""
        return composition_key(self.composition)


def composition_key(composition: Composition) -> str:
    """A stable text for a composition: slot=label(constants)."""
    parts = [f"{c.slot}={c.label}({','.join(f'{x:.3g}' for x in c.constants)})" for c in composition]
    return "; ".join(parts) or "plain"


class Space:
    """All rules known by their text, and all single changes to them. base: the rule whose slots are plain."""

    def __init__(self, sources: Mapping[str, str], base: str = "delta_net") -> None:
        self.rules = {name: read_rule(source, name) for name, source in sources.items()}
        self.base = base
        chain(self.rules, base)

    @cached_property
    def _known_code(self) -> dict[tuple[str, str], tuple[str, str, bool]]:
        """(slot, code without names) to label, family and whether only the state is touched."""
        known = {}
        for rule in sorted(self.rules.values(), key=lambda rule: len(rule.functions)):
            for slot in rule.functions:
                part = slot_text(chain(self.rules, rule.name), slot)
                family = FAMILIES.get((slot, rule.name), rule.name)
                key = (slot, canonical_code(part.code, _kinds(part)))
                known.setdefault(key, (rule.name, family, slot in STATE_SLOTS))
        for template in TEMPLATES:
            if template.slot != "prepare":
                part = template.fill({name: values[0] for name, values in template.constants.items()})
                key = (template.slot, canonical_code(part.code, _kinds(part)))
                known[key] = (template.label, template.family, template.reads_state)
        return known

    def line(self, name: str) -> tuple[RuleText, ...]:
        """A rule and its ancestors, nearest first."""
        return chain(self.rules, name)

    def composition(self, name: str) -> Composition:
        """What a known rule is made of."""
        return self._composition(self.line(name))

    def describe(self, source: str, name: str) -> Composition:
        """What a rule file is made of, which need not be among the known rules."""
        rule = read_rule(source, name)
        ancestors = self.line(rule.parent) if rule.parent else ()
        return self._composition((rule, *ancestors))

    def hash(self, source: str, name: str) -> str:
        """`Rule.hash` of a rule file."""
        rule = read_rule(source, name)
        return rule_hash(source, self.line(rule.parent) if rule.parent else ())

    def _composition(self, line: tuple[RuleText, ...]) -> Composition:
        choices = []
        for slot in (*SLOTS, "step"):
            home = defining(line, slot)
            if home is None or home.name == self.base:
                continue
            template = _prepare_template(slot_text(line, slot)) if slot == "prepare" else None
            if template is None:
                choices.append(self._choice(line, slot, home))
            else:
                inner = self._composition(line[line.index(home) + 1 :])
                choices += [c for c in inner if c.slot == "prepare"]
                choices.append(_beta_choice(template, home))
        return tuple(choices)

    def _choice(self, line: tuple[RuleText, ...], slot: str, home: RuleText) -> Choice:
        part = slot_text(line, slot)
        constants = tuple(x for text in part.declared.values() for x in _constants(text))
        code = canonical_code(part.code, _kinds(part))
        unknown = (
            f"own:{hashlib.sha256(code.encode()).hexdigest()[:8]}",
            f"own:{home.name}",
            slot in STATE_SLOTS,
        )
        label, family, reads_state = self._known_code.get((slot, code), unknown)
        return Choice(slot, label, family, constants, reads_state)

    def changes(self, parents: tuple[str, ...]) -> Iterator[Change]:
        """Every single change to the parents that leads to a composition of its own; the first way to it
        counts."""
        seen = {composition_key(self.composition(name)) for name in self.rules}
        for parent in parents:
            for change in self._changes_of(parent):
                if change.key not in seen:
                    seen.add(change.key)
                    yield change

    def _changes_of(self, parent: str) -> Iterator[Change]:
        line = self.line(parent)
        if any("step" in rule.functions for rule in line):
            return
        before = self.composition(parent)
        for template in TEMPLATES:
            if template.slot == "prepare" and _prepare_template(slot_text(line, "prepare")):
                continue
            for values in template.settings():
                choice = _template_choice(template, values)
                yield self._change(parent, before, choice, template=template, values=tuple(values.items()))
        yield from self._refinements(parent)
        for donor, choice in self._donations():
            if donor != parent:
                yield self._change(parent, before, choice, donor=donor)

    def _donations(self) -> list[tuple[str, Choice]]:
        """Slots of known rules that can be set onto another parent, each once; what a rule prepares for its
        own slots stays with it."""
        found: dict[tuple[str, str], tuple[str, Choice]] = {}
        for rule in self.rules.values():
            if rule.name == self.base or {"prepare", "step"} & set(rule.functions):
                continue
            for choice in self.composition(rule.name):
                if choice.label == rule.name:
                    found.setdefault((choice.slot, choice.label), (rule.name, choice))
        return list(found.values())

    def _refinements(self, parent: str) -> Iterator[Change]:
        """The parent's own change again, with one constant moved: a finer step than a template's own
        values."""
        rule = self.rules[parent]
        if rule.parent is None or len(rule.functions) != 1:
            return
        before = self.composition(rule.parent)
        slot = next(iter(rule.functions))
        label = next((c.label for c in self.composition(parent) if c not in before and c.slot == slot), "")
        template = next((t for t in TEMPLATES if t.label == label and t.slot == slot), None)
        values = read_values(template, rule.declared) if template else None
        for name, value in (values or {}).items():
            for moved in nearby(template, name, value) if template else ():
                new = {**(values or {}), name: moved}
                assert template is not None
                choice = _template_choice(template, new)
                yield self._change(rule.parent, before, choice, template=template, values=tuple(new.items()))

    def _change(
        self,
        parent: str,
        before: Composition,
        choice: Choice,
        template: Template | None = None,
        values: tuple[tuple[str, float], ...] = (),
        donor: str | None = None,
    ) -> Change:
        after = tuple(
            sorted((*(c for c in before if c.slot != choice.slot), choice), key=lambda c: ORDER.index(c.slot))
        )
        slot = "prepare" if choice.slot == BETA else choice.slot
        label = f"{slot}_{donor}" if donor else choice.label
        name = rule_name(parent, label, dict(values))
        return Change(parent, slot, choice.label, name, after, template, values, donor)

    def _part(self, change: Change, template: Template) -> SlotText:
        """The slot that a template sets onto its parent."""
        line = self.line(change.parent)
        part = template.fill(dict(change.values))
        if change.slot == "prepare":
            base = slot_text(line, "prepare")
            wanted = ("beta", *part.declared)
            inside = slot_with_line_in_front(part.code, wanted, base)
            return SlotText(
                "prepare", inside.code, part.declared, inside.helpers, (*inside.imports, *part.imports)
            )
        return set_onto(part, line)

    def write(self, change: Change) -> str:
        """The rule file of a change. A slot taken from a donor is set by the slot language, which loads
        torch."""
        if change.template is None:
            return self._composed(change)
        title = change.template.title.replace(":", f" on {change.parent}:", 1)
        docstring = f"{title}.\n\n    {change.template.equation}\n"
        return write_rule_file(self._part(change, change.template), change.parent, docstring)

    def _composed(self, change: Change) -> str:
        from archer.rules.compose import compose

        return compose({change.slot: change.donor or ""}, change.parent, self.find).source

    def find(self, name: str) -> Rule:
        """A known rule, loaded. Only rules that passed verification may be among the sources."""
        from archer.rules.rule import load_rule

        self.line(name)
        return load_rule(self.rules[name].source, name, self.find)


def read_values(template: Template, declared: Mapping[str, str]) -> dict[str, float] | None:
    """A template's constants as a rule file has them; None where its declarations were changed otherwise."""
    values = {}
    for pattern, text in zip(template.declares, declared.values(), strict=False):
        body = re.escape(pattern.split(" = ")[1])
        for name in template.constants:
            body = body.replace(f"<{name}>", f"(?P<{name}>[-+.e0-9]+)")
        match = re.fullmatch(body, text.split(" = ")[1])
        if match is None:
            return None
        values |= {name: float(number) for name, number in match.groupdict().items()}
    return values if set(values) == set(template.constants) else None


def nearby(template: Template, name: str, value: float) -> tuple[float, float]:
    """A step down and a step up from a constant, on the scale that its bounds suggest, to three digits."""
    declaration = next(line for line in template.declares if f"<{name}>" in line)
    if "within=(0, 1)" in declaration and "Feature" not in declaration:
        odds = value / (1 - value)
        moved = (odds / 1.8 / (1 + odds / 1.8), odds * 1.8 / (1 + odds * 1.8))
    elif "torch.inf" in declaration:
        moved = (value / 1.6, value * 1.6)
    else:
        moved = (value - 0.5, value + 0.5)
    return float(f"{moved[0]:.3g}"), float(f"{moved[1]:.3g}")


def rule_name(parent: str, label: str, values: Mapping[str, float]) -> str:
    """A stable Python identifier of at most 60 characters: parent, label, constants."""
    constants = "".join(f"_{key}{value:g}" for key, value in values.items())
    text = f"{parent}_{label}{constants}".replace("-", "m").replace(".", "p").replace("+", "_")
    if len(text) <= 60:
        return text
    return f"{text[:50]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@lru_cache(maxsize=4096)
def canonical_code(code: str, declared: tuple[tuple[str, str], ...]) -> str:
    """A function's syntax tree without the names that its author chose for what it declares.

    declared: name and kind (as text, without numbers) of each declaration.
    """
    kinds = dict(declared)
    order = [name for name in arguments(code) if name in kinds]
    names = {name: f"{kinds[name]}{index}" for index, name in enumerate(order)} | {"k_write": "k"}
    tree = ast.parse(code).body[0]
    assert isinstance(tree, ast.FunctionDef)
    kept = sorted(arguments(code))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = names.get(node.value, node.value)
    body = [node for node in tree.body if not _is_docstring(node)]
    signature = ",".join(sorted(names.get(name, name) for name in kept))
    return signature + "|" + "|".join(ast.dump(node) for node in body)


def _kinds(part: SlotText) -> tuple[tuple[str, str], ...]:
    return tuple((name, _kind(text)) for name, text in part.declared.items())


@lru_cache(maxsize=4096)
def _kind(declaration: str) -> str:
    """A declaration without its first value: what it is, its bounds and its shape."""
    call = ast.parse(declaration).body[0]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    rest = [ast.unparse(k) for k in call.value.keywords if k.arg not in ("initial", "bias")]
    return f"{ast.unparse(call.value.func)}({','.join(sorted(rest))})"


def _template_choice(template: Template, values: Mapping[str, float]) -> Choice:
    part = template.fill(values)
    order = arguments(template.code.strip()) if template.slot != "prepare" else tuple(part.declared)
    constants = tuple(x for name in order if name in part.declared for x in _constants(part.declared[name]))
    slot = BETA if template.slot == "prepare" else template.slot
    return Choice(slot, template.label, template.family, constants, template.reads_state)


def _beta_choice(template: Template, home: RuleText) -> Choice:
    names = [line.split(" = ")[0] for line in template.declares]
    constants = tuple(x for name in names if name in home.declared for x in _constants(home.declared[name]))
    return Choice(BETA, template.label, template.family, constants)


def _prepare_template(part: SlotText) -> Template | None:
    """The template whose line stands in front of a preparation, if one does."""
    function = ast.parse(part.code).body[0]
    assert isinstance(function, ast.FunctionDef)
    first = ast.unparse(function.body[0])
    return next((t for t in TEMPLATES if t.slot == "prepare" and t.code == first), None)


@lru_cache(maxsize=4096)
def _constants(declaration: str) -> tuple[float, ...]:
    """The first value of a Parameter or the bias of a Feature, on the scale that its bounds suggest."""
    call = ast.parse(declaration).body[0]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    keywords = {k.arg: ast.unparse(k.value) for k in call.value.keywords}
    kind = call.value.func.id if isinstance(call.value.func, ast.Name) else ""
    texts = {"Parameter": [ast.unparse(a) for a in call.value.args[:1]] or [keywords.get("initial", "0")]}
    texts["Feature"] = [keywords.get("bias", "0")]
    numbers = [_number(text) for text in texts.get(kind, [])]
    within = keywords.get("within", "").replace(" ", "")
    return tuple(_scaled(x, within, kind) for x in numbers if x is not None)


def _number(text: str) -> float | None:
    try:
        value = ast.literal_eval(text)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) else None


def _scaled(x: float, within: str, kind: str) -> float:
    if kind == "Parameter" and within == "(0,1)" and 0 < x < 1:
        return math.log(x / (1 - x)) / 2
    if kind == "Parameter" and "inf" in within and x > 0:
        return math.log(x)
    return x / 2 if kind == "Feature" else x


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
