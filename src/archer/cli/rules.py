"""`archer rules`: what exists, with equations; the code of one rule; the language of slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_json, results
from archer.cli.shared import (
    DEFAULT_PROJECT,
    JsonOption,
    ProjectOption,
    plain_table,
    project_rules,
    titled,
)
from archer.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from archer.rules import Rule
    from archer.rules.compose import Grammar
    from archer.rules.describe import Description


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RULE",
            help="A rule (the project's too), a composed one, or a history table's name for one.",
        ),
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    grammar: Annotated[
        bool, typer.Option("--grammar", help="The slots as a language, and how many rules it has.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The rules that exist, with their equations and code.

    Title, equation, parent, own slots, parameters and state per head, names in the history tables; the
    project's own rules after the built-in ones.

    With RULE, the code of that rule and of the slots that it takes from its ancestors.

    \b
    Examples: archer rules
              archer rules hybrid
              archer rules --grammar
    """
    if grammar:
        _show_grammar(name, project_rules(project), as_json)
    elif name is not None:
        known = project_rules(project)
        _show_rule(find(name, known), known, as_json)
    else:
        _show_list(further_rules(project_rules(project)), as_json)


def find(name: str, known: Mapping[str, str] | None = None) -> Rule:
    """A rule by its own name, a composition's, or a history table's. known: texts of a project's rules, by
    name. Raises UserError with the nearest of all that could have been meant."""
    from archer.rules import get_rule, resolve_history_name, rule_names

    known = known or {}
    if name in known:
        from archer.verify.verification import Finder

        return Finder(known)(name)
    meant = resolve_history_name(name)
    if meant is None and "+" not in name:
        from archer.model.baselines import BASELINES

        if name in BASELINES:
            raise UserError(f"'{name}' is a token mixer to compare with, not a rule: it has no slots to show")
        raise unknown("rule", name, (*rule_names(), *known))
    return get_rule(meant or name)


def further_rules(known: Mapping[str, str]) -> dict[str, Rule]:
    """A project's rules by name, of their texts; what this version does not load is left out."""
    from archer.verify.verification import Finder

    if not known:
        return {}
    return {name: rule for name, rule in Finder(known).all().items() if name in known}


# The list


def _show_list(more: Mapping[str, Rule], as_json: bool) -> None:
    """more: a project's rules, by name."""
    from archer.rules.describe import describe, descriptions

    found, own = descriptions(), {rule.hash: describe(rule) for rule in more.values()}
    if as_json:
        project = [{**asdict(one), "hash": digest} for digest, one in own.items()]
        rules = [_values(one) for one in found]
        print_json({"rules": rules, "project": project, "baselines": dict(_baselines())})
        return
    console = results()
    for one in found:
        console.print(*entry(one), "", sep="\n")
    if own:
        console.print("Rules that the project has accepted\n", style="bold underline")
    for one in own.values():
        console.print(*entry(one), "", sep="\n")
    console.print(_baseline_table(console))
    console.print(
        "\nDk, Dv: width of a key and of a value; D: of the layer. A feature is computed from the layer's "
        "input for every token.\n"
        "archer rules NAME shows a rule's code, archer rules --grammar how slots compose.",
        style="dim",
    )


def _values(one: Description) -> dict[str, Any]:
    from archer.rules import get_rule

    return {**asdict(one), "hash": get_rule(one.name).hash}


def entry(one: Description) -> Iterator[RenderableType]:
    """One rule: its name with what differs, title, equation, cost, and the names in old tables."""
    from rich.padding import Padding
    from rich.text import Text

    head = Text(one.name, style="bold")
    head.append(
        f"  {', '.join(one.slots)} of {one.parent}" if one.parent else "  all slots", style="not bold cyan"
    )
    yield head
    if one.title != one.name:  # a composition's title is its name
        yield Padding(Text(one.title), (0, 0, 0, 2), expand=False)
    yield Padding(Text(one.equation, style="green"), (0, 0, 0, 4), expand=False)
    yield Padding(Text(_cost(one), style="dim"), (0, 0, 0, 2), expand=False)
    if one.history:
        yield Padding(
            Text(f"history: {', '.join(one.history)}", style="dim", overflow="fold"),
            (0, 0, 0, 2),
            expand=False,
        )


def _cost(one: Description) -> str:
    features = [f"{name} ({width})" for name, width in one.features.items()]
    beside = f", features {', '.join(features)}" if features else ""
    return f"per head: learned {one.learned}{beside}, state {one.state}"


def _baselines() -> Iterator[tuple[str, str]]:
    """Mixers that are no rules: name and what they compute."""
    from inspect import getdoc

    from archer.model.baselines import BASELINES, baseline

    for name in BASELINES:
        text = getdoc(type(baseline(name, 64))) or ""
        yield name, " ".join(text.split("\n\n")[0].split())


def _baseline_table(console: Console) -> RenderableType:
    grid = plain_table(console.width)
    grid.add_column("Mixer", style="bold", no_wrap=True)
    grid.add_column("What it computes", overflow="fold")
    for name, text in _baselines():
        grid.add_row(name, text)
    return titled("Token mixers to compare with, of the same size (4 D² parameters)", grid)


# One rule


def _show_rule(rule: Rule, known: Mapping[str, str], as_json: bool) -> None:
    from archer.rules.describe import describe

    one = describe(rule)
    inherited = dict(_inherited(rule, known))
    if as_json:
        slots = {slot: {"from": origin, "code": code} for slot, (origin, code) in inherited.items()}
        print_json({**asdict(one), "hash": rule.hash, "source": rule.source, "inherited": slots})
        return
    console = results()
    console.print(*entry(one), f"  hash {rule.hash}", "", sep="\n")
    print_code(rule.source, console)
    for slot, (origin, code) in inherited.items():
        console.print(f"\n[bold]{slot}[/bold] [cyan]of {origin}[/cyan]")
        print_code(code, console)


def _inherited(rule: Rule, known: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The slots in effect that another file defines: slot, (the ancestor whose file it is, its code)."""
    from archer.rules.syntax import slot_syntax

    chain = _chain(rule, known)
    sources = (rule.source, *rule.ancestry)
    for slot in rule.slots:
        syntax = slot_syntax(sources, slot)
        if syntax is not None and syntax.depth > 0:
            own = [x.text for x in syntax.definitions.values() if not x.is_import]
            yield slot, (chain[syntax.depth], "\n".join([*own, syntax.function.text]))


def _chain(rule: Rule, known: Mapping[str, str]) -> list[str]:
    """Names, from the rule to its first ancestor."""
    names = [rule.name]
    while rule.parent is not None:
        rule = find(rule.parent, known)
        names.append(rule.name)
    return names


def print_code(text: str, console: Console) -> None:
    """Highlighted in a terminal; in a pipe as it is, no line broken, so that it can be saved."""
    from rich.syntax import Syntax
    from rich.text import Text

    code = text.strip("\n")
    if console.is_terminal:
        console.print(Syntax(code, "python", theme="ansi_dark", background_color="default", word_wrap=True))
    else:
        console.print(Text(code), soft_wrap=True)


# The language of slots


def _show_grammar(name: str | None, known: Mapping[str, str], as_json: bool) -> None:
    from archer.rules import BASE
    from archer.rules.compose import grammar

    found = grammar(find(name, known).name if name is not None else BASE, further_rules(known))
    if as_json:
        numbers = {place: {n: asdict(x) for n, x in xs.items()} for place, xs in found.constants.items()}
        print_json(
            {
                "parent": found.parent,
                "slots": dict(found.slots),
                "constants": numbers,
                "together": found.together,
                "size": found.size,
            }
        )
        return
    console = results()
    console.print('composition = slot "=" rule ["(" constant "=" number {"," ...} ")"] {"," composition}\n',
                  markup=False)  # fmt: skip
    together = [f"{slot}={rule} comes with {other}={rule}." for rule, slot, other in found.together]
    console.print(titled("Slots", _slot_table(found, console), *together), "", sep="\n")
    console.print(titled("Constants that a choice may set", _constant_table(found, console)), "", sep="\n")
    console.print(f"{found.size:,} rules on {found.parent}, constants aside.")
    console.print('Try: archer compose "similarity=hybrid, retain=decay(gamma=0.9)"', markup=False)


def _slot_table(found: Grammar, console: Console) -> Table:
    table = plain_table(console.width)
    table.add_column("Slot", style="bold", no_wrap=True)
    table.add_column(f"From which rule ({found.parent} unless said)")
    for slot, rules in found.slots.items():
        table.add_row(slot, " | ".join(rules))
    return table


def _constant_table(found: Grammar, console: Console) -> Table:
    from archer.report.numbers import rate

    table = plain_table(console.width)
    for heading in ("Choice", "Constant", "Is", "Between"):
        table.add_column(heading, no_wrap=True)
    for choice, numbers in found.constants.items():
        for constant, x in numbers.items():
            table.add_row(choice, constant, rate(x.initial), f"{rate(x.low)} and {rate(x.high)}")
    return table
