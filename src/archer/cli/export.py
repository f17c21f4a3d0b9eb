"""`archer export`: a rule to take away, as files that need nothing but torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archer.cli.console import print_json, print_note, results
from archer.cli.shared import DEFAULT_PROJECT, JsonOption, ProjectOption, project_rules
from archer.errors import UserError

if TYPE_CHECKING:
    from archer.rules import Rule


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RULE", help="A rule (the project's too), a composed rule, or a rule file (FILE.py)."
        ),
    ],
    project: ProjectOption = DEFAULT_PROJECT,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to.")] = Path("."),
    trust: Annotated[
        bool, typer.Option("--trust", help="Lift the language wall, for a file of your own.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """A rule to take away, as two files that need only torch.

    RULE.py has `delta_rule_chunkwise`, in the place of fla/ops/delta_rule/naive.py; RULE_layer.py an
    nn.Module [B, T, D] -> [B, T, D] with a decoding step.

    \b
    Examples: archer export hybrid --to models
              archer export "delta_net+retain=decay+similarity=hybrid"
              archer export my_rule --project archer-project
    """
    from archer.rules.export import export
    from archer.rules.text import identifier
    from archer.verify.contained import export_contained

    known = project_rules(project)
    rule = _find(name, trust, known)
    if to.exists() and not to.is_dir():
        raise UserError(f"--to '{to}' is a file; give a folder, which need not exist yet")
    stem = identifier(rule.name)
    there = [path for path in (to / f"{stem}.py", to / f"{stem}_layer.py") if path.exists()]
    if there and not force:
        listed = " and ".join(f"'{path}'" for path in there)
        raise UserError(f"{listed} would be replaced: choose another folder with --to, or give --force")
    try:
        if name.endswith(".py") or name in known:
            function, layer = export_contained(rule.source, rule.name, to, known)
        else:
            function, layer = export(rule, to)
    except OSError as error:
        raise UserError(f"--to '{to}' cannot be written: {error.strerror or error}") from error
    if as_json:
        print_json({"rule": rule.name, "hash": rule.hash, "function": str(function), "layer": str(layer)})
        return
    results().print(f"{function}\n{layer}", markup=False, soft_wrap=True)
    print_note(f"{rule.name}: delta_rule_chunkwise in {function.name}, TokenMixer in {layer.name}")


def _find(name: str, trust: bool, known: Mapping[str, str]) -> Rule:
    """known: the texts of a project's rules, by name."""
    if name.endswith(".py"):
        from archer.cycle.plan import read_rule_file

        return read_rule_file(Path(name), trust, known)
    from archer.cli.rules import find

    return find(name, known)
