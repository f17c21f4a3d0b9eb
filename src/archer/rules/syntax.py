"""Rule files as syntax trees: what a slot needs to stand on its own, and which slots differ from a parent.

Nothing is executed here. A chain of sources is a rule's own text followed by those of its ancestors:
`(rule.source, *rule.ancestry)`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from archer.rules.rule import SLOTS, VOCABULARY, Rule, RuleError, names_bound

DECLARATIONS = ("Parameter", "Feature", "Carried")
ALL_SLOTS = (*SLOTS, "step")


@dataclass(frozen=True)
class Definition:
    """One import, constant, declaration or function: its tree, and its text with comments."""

    node: ast.stmt
    text: str

    @property
    def kind(self) -> str | None:
        """Parameter, Feature or Carried, if this declares one."""
        value = self.node.value if isinstance(self.node, ast.Assign | ast.AnnAssign) else None
        called = value.func if isinstance(value, ast.Call) else None
        return called.id if isinstance(called, ast.Name) and called.id in DECLARATIONS else None

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, ast.Import | ast.ImportFrom)


@dataclass(frozen=True)
class SlotSyntax:
    """One slot with everything that it needs from its file.

    definitions: imports, constants, declarations and helper functions by name. prepared: arguments that only
    the rule's own `prepare` hands on. depth: how many files up the chain it stands (0: the rule's own).
    """

    slot: str
    function: Definition
    definitions: dict[str, Definition]
    prepared: tuple[str, ...]
    depth: int

    def normal_form(self) -> tuple[str, ...]:
        """Equal for two slots that say the same, whatever their comments, docstrings and layout."""
        nodes = [self.function, *(self.definitions[name] for name in sorted(self.definitions))]
        return tuple(ast.dump(_without_docstring(definition.node)) for definition in nodes)


@lru_cache(maxsize=4096)
def slot_syntax(sources: tuple[str, ...], slot: str) -> SlotSyntax | None:
    """The slot as the first file of the chain that defines it says; None where no file does."""
    files = [top_level(source) for source in sources]
    for depth, file in enumerate(files):
        if slot in file and isinstance(file[slot].node, ast.FunctionDef):
            return _with_needs(slot, files, depth)
    return None


@lru_cache(maxsize=1024)
def top_level(source: str) -> dict[str, Definition]:
    """The top level of a file by name: one entry per imported name, assignment or function."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise RuleError(f"line {error.lineno} is not Python: {error.msg}") from error
    return {name: definition for statement in tree.body for name, definition in _named(statement, source)}


def argument_list(function: ast.stmt) -> tuple[str, ...]:
    """The names of a function's arguments."""
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    return tuple(x.arg for x in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def slots_differing(
    source: str, parent: str | Rule, find: Callable[[str], Rule] | None = None
) -> tuple[str, ...]:
    """The slots in which a rule file differs from its parent, by its syntax tree; it is not executed.

    A slot differs if its function, or a constant, declaration or helper that it uses, differs. Comments,
    docstrings and layout do not count.
    """
    if find is None:
        from archer.rules.registry import get_rule as find
    base = find(parent) if isinstance(parent, str) else parent
    theirs = (base.source, *base.ancestry)
    ours = (source, *theirs)
    return tuple(slot for slot in ALL_SLOTS if _normal_form(ours, slot) != _normal_form(theirs, slot))


def _normal_form(sources: tuple[str, ...], slot: str) -> tuple[str, ...] | None:
    syntax = slot_syntax(sources, slot)
    return syntax.normal_form() if syntax else None


def _named(statement: ast.stmt, source: str) -> Iterator[tuple[str, Definition]]:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            node = (
                ast.ImportFrom(statement.module, [alias], statement.level)
                if isinstance(statement, ast.ImportFrom)
                else ast.Import([alias])
            )
            yield (alias.asname or alias.name).split(".")[0], Definition(node, ast.unparse(node))
        return
    for name in names_bound(statement):
        yield name, Definition(statement, ast.get_source_segment(source, statement) or ast.unparse(statement))


def _with_needs(slot: str, files: list[dict[str, Definition]], depth: int) -> SlotSyntax:
    """Arguments are declared anywhere in the chain, the nearest first; other names stand in the same file."""
    function = files[depth][slot]
    definitions: dict[str, Definition] = {}
    prepared = []
    for name in argument_list(function.node):
        declared = next((file[name] for file in files if name in file and file[name].kind), None)
        if declared is not None:
            definitions[name] = declared
        elif name not in VOCABULARY:
            prepared.append(name)
    places = [files[depth], *files]
    waiting = [function, *definitions.values()]
    while waiting:
        for name in sorted(free_names(waiting.pop().node) - definitions.keys()):
            found = next((file[name] for file in places if name in file), None)
            if found is not None:
                definitions[name] = found
                waiting.append(found)
    return SlotSyntax(slot, function, definitions, tuple(prepared), depth)


def free_names(node: ast.AST) -> set[str]:
    """Names that a statement reads and does not bind itself."""
    names = [x for x in ast.walk(node) if isinstance(x, ast.Name)]
    arguments = {x.arg for x in ast.walk(node) if isinstance(x, ast.arg)}
    bound = {x.id for x in names if isinstance(x.ctx, ast.Store)} | arguments
    return {x.id for x in names if isinstance(x.ctx, ast.Load)} - bound


def _without_docstring(node: ast.stmt) -> ast.stmt:
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        body = node.body[1:] or [ast.Pass()]
        return ast.FunctionDef(node.name, node.args, body, node.decorator_list, node.returns)
    return node
