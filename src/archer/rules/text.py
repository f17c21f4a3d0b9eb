"""Rule files as text: slots and what they need, copied together without two meanings of one name."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from archer.rules.rule import Rule
from archer.rules.syntax import ALL_SLOTS, Definition, SlotSyntax


@dataclass
class RuleText:
    """A rule file under construction: definitions by name, and slot functions."""

    imports: dict[str, ast.stmt] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    helpers: dict[str, str] = field(default_factory=dict)
    slots: dict[str, str] = field(default_factory=dict)

    def differs(self, name: str, definition: Definition) -> bool:
        """Whether the name stands for something else already."""
        written = self.values.get(name, self.helpers.get(name))
        return written is not None and written != definition.text


def add_slot(text: RuleText, syntax: SlotSyntax, origin: Rule, reserved: Collection[str]) -> None:
    """Copies a slot and what it needs; a name that is taken gets the rule's name in front."""
    own = {name: x for name, x in syntax.definitions.items() if not x.is_import}
    taken = {n for n, x in own.items() if n in reserved or n in ALL_SLOTS or text.differs(n, x)}
    renamed = {name: f"{identifier(origin.name)}_{name}" for name in taken}
    for name, definition in syntax.definitions.items():
        if definition.is_import:
            text.imports[name] = definition.node
        else:
            place = text.helpers if isinstance(definition.node, ast.FunctionDef) else text.values
            place[renamed.get(name, name)] = _renamed(definition, renamed)
    text.slots[syntax.slot] = _renamed(syntax.function, renamed)


class _Renamer(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.names.get(node.id, node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self.names.get(node.arg, node.arg), node.annotation)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        """The keys under which carried values are returned."""
        for key in node.keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                key.value = self.names.get(key.value, key.value)
        return self.generic_visit(node)


def _renamed(definition: Definition, names: Mapping[str, str]) -> str:
    node = _Renamer(names).visit(copy.deepcopy(definition.node))
    return definition.text if ast.dump(node) == ast.dump(definition.node) else ast.unparse(node)


def import_lines(imports: Mapping[str, ast.stmt]) -> str:
    """One line per module, sorted."""
    plain = sorted({ast.unparse(node) for node in imports.values() if isinstance(node, ast.Import)})
    modules: dict[str, list[str]] = {}
    for _, node in sorted(imports.items()):
        if isinstance(node, ast.ImportFrom):
            alias = node.names[0]
            modules.setdefault(node.module or "", []).append(
                alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
            )
    return "\n".join(
        [*plain, *(f"from {m} import {', '.join(names)}" for m, names in sorted(modules.items()))]
    )


def identifier(name: str) -> str:
    """A name that Python accepts: a rule's name with underscores for all that is not a letter or digit."""
    return re.sub(r"\W+", "_", name)
