"""`archer compose`: a new rule from the slots of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archer.cli.console import print_json, print_note, results
from archer.cli.shared import DEFAULT_PROJECT, JsonOption, ProjectOption, project_rules, write_text
from archer.errors import UserError


def command(
    choices: Annotated[
        str,
        typer.Argument(
            metavar="SLOT=RULE[,...]",
            help="Which slot comes from which rule; RULE(constant=number) sets a constant of it.",
        ),
    ],
    parent: Annotated[
        str, typer.Option("--parent", metavar="RULE", help="The rule whose other slots stay as they are.")
    ] = "delta_net",
    write: Annotated[
        str | None, typer.Option("--write", metavar="FILE", help="Write the rule file; - for its text alone.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """A new rule from the slots of others.

    Prints its name, hash and file, ready for `archer try`. Rules that the project has accepted may be named.

    The same choices in any order give the same rule; a choice that the library has already gives that rule.

    \b
    Examples: archer compose "similarity=hybrid, retain=decay"
              archer compose "retain=decay(gamma=0.9)" --write faster_decay.py
    """
    from archer.cli.rules import entry, find, print_code
    from archer.rules import rule_names
    from archer.rules.compose import compose
    from archer.rules.describe import describe

    if not choices.strip():
        raise UserError('nothing was chosen: expected slot=rule, such as "retain=decay"')
    known = project_rules(project)
    rule = compose(choices, find(parent, known).name, lambda name: find(name, known))
    if write not in (None, "-"):
        _refuse_to_replace(Path(write), force)
    if as_json:
        print_json({"name": rule.name, "hash": rule.hash, "parent": rule.parent, "slots": rule.own,
                    "built_in": rule.name in rule_names(), "source": rule.source})  # fmt: skip
    elif write != "-":
        console = results()
        console.print(*entry(describe(rule)), f"  hash {rule.hash}", "", sep="\n")
        if write is None:
            print_code(rule.source, console)
    if write is not None and not (as_json and write == "-"):
        write_text(write, rule.source)
    if rule.name in rule_names():
        print_note(f"this is the built-in rule {rule.name}: archer bench {rule.name}")
    elif write not in (None, "-"):
        print_note(f"written: {write}. Next: archer verify {write}, or archer try {write}")


def _refuse_to_replace(path: Path, force: bool) -> None:
    from archer.rules import rule_names

    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UserError(f"--write '{path}': a rule file is a Python file, such as my_rule.py")
    if path.stem in rule_names():
        raise UserError(f"--write '{path}': {path.stem} is the name of a built-in rule; choose another")
    if path.exists() and not force:
        raise UserError(f"--write '{path}' is there already: choose another name, or replace it with --force")
