"""Which slots differ from the parent, read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from archer.rules import SLOTS, Rule
from archer.verify.checks.finding import Finding, check


@check("one change", "It differs from its parent in one slot (more only where that is asked for).")
def one_change(rule: Rule, parent: Rule | None, allow_many: bool) -> Finding:
    """Compares what each slot says, its helpers and constants included; names of locals and comments do not count."""
    if parent is None:
        return Finding(True, "not applicable: it has no parent")
    changed = changed_slots(rule, parent)
    listed = ", ".join(changed) or "nothing"
    if not changed:
        return Finding(False, f"it says the same as its parent `{parent.name}`", "compared as syntax trees")
    if len(changed) > 1 and not allow_many:
        return Finding(
            False,
            f"it changes {len(changed)} slots of `{parent.name}` at once ({listed}); change one, or ask for more "
            "with --allow-many",
            listed,
        )
    return Finding(True, f"changed: {listed}")


def changed_slots(rule: Rule, parent: Rule) -> tuple[str, ...]:
    """The slots, in the order of the loop, whose text differs between a rule and its parent."""
    names = (*SLOTS, "step")
    mine, theirs = _slot_texts(rule), _slot_texts(parent)
    return tuple(name for name in names if mine.get(name) != theirs.get(name))


def _slot_texts(rule: Rule) -> dict[str, str]:
    """What each slot that counts says: its own tree and what it refers to at the top of its file."""
    texts: dict[str, str] = {}
    for source in (rule.source, *rule.ancestry):
        tops = _top_level(ast.parse(source))
        for name in rule.slots:
            if name in tops and name not in texts:
                texts[name] = "\n".join(_with_references(name, tops))
    return texts


def _top_level(tree: ast.Module) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        for target in _targets(node):
            found[target] = node
    return found


def _targets(node: ast.stmt) -> Iterable[str]:
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _with_references(name: str, tops: dict[str, ast.stmt]) -> list[str]:
    seen, waiting, texts = {name}, [name], []
    while waiting:
        node = tops[waiting.pop()]
        texts.append(_plain(node))
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        used |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        fresh = sorted((used & set(tops)) - seen)
        seen |= set(fresh)
        waiting.extend(fresh)
    return texts


def _plain(node: ast.stmt) -> str:
    """The tree as text, without documentation and with local names numbered in order of appearance."""
    copy = ast.parse(ast.unparse(node)).body[0]
    if isinstance(copy, ast.FunctionDef):
        first = copy.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(copy.body) > 1:
            copy.body = copy.body[1:]
        copy.args.args.sort(key=lambda argument: argument.arg)
        stored = [n.id for n in ast.walk(copy) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        numbered = {name: f"local_{number}" for number, name in enumerate(dict.fromkeys(stored))}
        for n in ast.walk(copy):
            if isinstance(n, ast.Name):
                n.id = numbered.get(n.id, n.id)
    return ast.dump(copy)
