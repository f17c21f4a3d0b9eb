"""From a subject (text) to the token mixer that trains: the one place where its code is executed."""

from __future__ import annotations

from functools import cache

import torch

from archer.errors import UserError
from archer.fleet.run import Recipe, Subject
from archer.model.mixer import ModuleMixer, RuleMixer
from archer.rules import Rule, get_rule, load_rule, rule_names
from archer.rules.executed import executed


def rule_subject(rule: Rule, known: dict[str, str] | None = None) -> Subject:
    """A rule as a subject. known: texts of rules that are not built in, by name (its ancestors may be)."""
    sources, parent = [], rule.parent
    while parent is not None and parent not in rule_names():
        if not known or parent not in known:
            raise UserError(
                f"rule {rule.name}: its parent {parent} is not known; give its file, or a built-in parent"
            )
        sources.append((parent, known[parent]))
        parent = load_rule(known[parent], parent, finder(dict(known))).parent
    return Subject(rule.name, rule.source, rule.hash, tuple(sources))


def finder(sources: dict[str, str]):
    """Finds a rule by name among texts, then among the built-in rules."""

    def find(name: str) -> Rule:
        return load_rule(sources[name], name, find) if name in sources else get_rule(name)

    return find


@cache
def build_mixer(subject: Subject, recipe: Recipe) -> RuleMixer | ModuleMixer:
    """Executes the subject's code, once, and gives its token mixer: one object for all settings, so that what
    was compiled for one serves the others."""
    if subject.module is None:
        rule = load_rule(subject.source, subject.name, finder(dict(subject.sources)))
        return RuleMixer(rule, recipe.width, recipe.heads, recipe.chunk_size)
    path, _, class_name = subject.module.rpartition(":")
    namespace = executed(subject.source, f"archer_module_{subject.hash}", f"<module {path} {subject.hash}>")
    cls = namespace.get(class_name)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        classes = [n for n, v in namespace.items() if isinstance(v, type) and issubclass(v, torch.nn.Module)]
        raise UserError(
            f"{path}: no torch.nn.Module named {class_name!r}; it has {', '.join(classes) or 'none'}"
        )
    return ModuleMixer(subject.name, lambda: cls(recipe.width, **dict(subject.arguments)))
