"""Rule files read as text: their slots, declarations and parents, without running them (and without torch).

A slot can be lifted out of one rule and set onto another: its function, the declarations that it asks for
and the imports that it uses, renamed where the new parent uses the same name for something else.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from archer.errors import unknown
from archer.research.researcher import ResearchError
from archer.rules.registry import LIBRARY, rule_names
from archer.rules.rule import PREPARED, SLOTS, VOCABULARY

DECLARING = ("Parameter", "Feature", "Carried")
RULE_IMPORTS = (*DECLARING, "Draw", "wy", "faded_products")


@dataclass(frozen=True)
class RuleText:
    """One rule file, read. functions: slot name to its text. declared: name to the text of its assignment.

    helpers: other top-level functions and constants, by name. imports: name to the line that brings it.
    """

    name: str
    source: str
    parent: str | None
    title: str
    functions: Mapping[str, str]
    declared: Mapping[str, str]
    helpers: Mapping[str, str]
    imports: Mapping[str, str]
    history: tuple[str, ...]


@dataclass(frozen=True)
class SlotText:
    """A slot that can be set onto any parent: its function's text and what it brings with it."""

    slot: str
    code: str
    declared: Mapping[str, str]
    helpers: Mapping[str, str]
    imports: tuple[str, ...]


def read_rule(source: str, name: str) -> RuleText:
    """Read a rule file. Raises ResearchError where it is no Python, or its parent or history is no text."""
    tree = _parsed(source, name)
    lines = source.splitlines()
    functions, declared, helpers, imports, plain = {}, {}, {}, {}, {}
    for node in tree.body:
        text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef):
            (functions if node.name in (*SLOTS, "step") else helpers)[node.name] = text
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(_import_lines(node))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
            if _called(node.value) in DECLARING:
                declared[target] = text
            elif target in ("parent", "history"):
                plain[target] = _plain_value(node, target, name)
            elif target != "layer":
                helpers[target] = text
    title = (ast.get_docstring(tree) or "").splitlines()[:1]
    return RuleText(
        name=name,
        source=source,
        parent=plain.get("parent"),
        title=title[0].rstrip(".") if title else "",
        functions=functions,
        declared=declared,
        helpers=helpers,
        imports=imports,
        history=tuple(plain.get("history", ())),
    )


def _parsed(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ResearchError(f"rule {name}: line {error.lineno} is not Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        why = str(error) or "nested too deeply"
        raise ResearchError(f"rule {name}: Python cannot read it: {why}") from error


def _plain_value(node: ast.Assign, target: str, name: str) -> Any:
    """The parent's name, or the names of the history. Raises ResearchError where it is anything else."""
    try:
        value = ast.literal_eval(node.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = NotImplemented
    names = (value,) if target == "parent" else value
    if isinstance(names, tuple | list) and all(isinstance(one, str) for one in names):
        return value
    expected = 'a name in quotes, such as parent = "delta_net"' if target == "parent" else "a tuple of names"
    raise ResearchError(
        f"rule {name}: line {node.lineno}: {target} is {ast.unparse(node.value)[:80]}; expected {expected}"
    )


def library_sources() -> dict[str, str]:
    """The text of every built-in rule, by name."""
    return {name: (LIBRARY / f"{name}.py").read_text(encoding="utf-8") for name in rule_names()}


def chain(rules: Mapping[str, RuleText], name: str) -> tuple[RuleText, ...]:
    """A rule and its ancestors, nearest first. Raises UserError for an unknown name or a circle."""
    line: list[RuleText] = []
    current: str | None = name
    while current is not None:
        if current not in rules:
            raise unknown("rule", current, rules)
        if any(rule.name == current for rule in line):
            raise ResearchError(f"rule {name}: its line of parents comes back to {current}")
        line.append(rules[current])
        current = rules[current].parent
    return tuple(line)


def rule_hash(source: str, ancestors: tuple[RuleText, ...]) -> str:
    """`Rule.hash` without loading the rule."""
    return hashlib.sha256("\0".join((source, *(a.source for a in ancestors))).encode()).hexdigest()[:12]


def defining(line: tuple[RuleText, ...], slot: str) -> RuleText | None:
    """The nearest rule of a line that defines a slot; None where a whole `step` stands in front of it."""
    for rule in line:
        if slot in rule.functions:
            return rule
        if "step" in rule.functions and slot != "prepare":
            return None
    return None


def slot_text(line: tuple[RuleText, ...], slot: str) -> SlotText:
    """Lift a slot out of a line of rules (nearest first)."""
    home = defining(line, slot)
    if home is None:
        raise ResearchError(f"rule {line[0].name}: no slot `{slot}` to take from it")
    code = home.functions[slot]
    helpers = _helpers(home, code)
    body = "\n".join((code, *helpers.values()))
    known = {name: text for rule in reversed(line) for name, text in rule.declared.items()}
    wanted = [name for name in arguments(code) if name in known]
    imports = [line_ for name, line_ in home.imports.items() if _uses(body, name)]
    return SlotText(
        slot, code, {name: known[name] for name in wanted}, helpers, tuple(dict.fromkeys(imports))
    )


@lru_cache(maxsize=4096)
def arguments(function_text: str) -> tuple[str, ...]:
    """The names of a function's arguments, from its text."""
    function = ast.parse(function_text).body[0]
    assert isinstance(function, ast.FunctionDef)
    return tuple(argument.arg for argument in function.args.args)


def set_onto(part: SlotText, line: tuple[RuleText, ...]) -> SlotText:
    """The same slot for another parent: names that the parent's other slots use for something else change."""
    taken = set(declared_names(line)) | _prepared_names(line)
    renames = {name: _free(name, taken) for name in part.declared if name in taken}
    if not renames:
        return part
    return SlotText(
        part.slot,
        _rename(part.code, renames),
        {renames.get(name, name): _rename(text, renames) for name, text in part.declared.items()},
        part.helpers,
        part.imports,
    )


def declared_names(line: tuple[RuleText, ...]) -> tuple[str, ...]:
    """What a line of rules declares, nearest first, each name once."""
    return tuple(dict.fromkeys(name for rule in line for name in rule.declared))


def write_rule_file(part: SlotText, parent: str, docstring: str) -> str:
    """The text of a rule file with one slot of its own."""
    names = [n for n in RULE_IMPORTS if any(_uses(t, n) for t in (*part.declared.values(), part.code))]
    other = [line for line in part.imports if not line.startswith("from archer")]
    imports = "\n".join(sorted(other, key=lambda line: (line.startswith("from"), line)))
    rules_import = f"from archer.rules import {', '.join(sorted(names))}" if names else ""
    head = "\n\n".join(block for block in (f'"""{docstring.strip()}\n"""', imports, rules_import) if block)
    top = "\n".join((f'parent = "{parent}"', *part.declared.values()))
    helpers = "".join(f"\n\n{text}\n" for text in part.helpers.values())
    return f"{head}\n\n{top}\n{helpers}\n\n{part.code.strip()}\n"


def _helpers(home: RuleText, code: str) -> dict[str, str]:
    """Top-level functions and constants that a slot uses, those that these use included."""
    found: dict[str, str] = {}
    text = code
    while True:
        more = {n: t for n, t in home.helpers.items() if n not in found and _uses(text, n)}
        if not more:
            return {name: home.helpers[name] for name in home.helpers if name in found}
        found |= more
        text = "\n".join(more.values())


def _prepared_names(line: tuple[RuleText, ...]) -> set[str]:
    home = defining(line, "prepare")
    if home is None:
        return set()
    keys = {
        key.value
        for node in ast.walk(ast.parse(home.functions["prepare"]))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    return keys - set(VOCABULARY) | (keys & set(PREPARED))


def _free(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _rename(text: str, renames: Mapping[str, str]) -> str:
    return re.sub(r"(?<![\w.])\w+\b", lambda match: renames.get(match[0], match[0]), text)


def _uses(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}\b", text) is not None


def _called(value: ast.expr) -> str | None:
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else None


def _import_lines(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    lines = {}
    for alias in node.names:
        bound = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        name = (alias.asname or alias.name).split(".")[0]
        lines[name] = (
            f"from {node.module} import {bound}" if isinstance(node, ast.ImportFrom) else f"import {bound}"
        )
    return lines
