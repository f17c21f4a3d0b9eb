"""`archer verify`: everything that can be proved about a candidate before it costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archer.cli.console import print_json, print_note, results
from archer.cli.shared import ABSENT, DEFAULT_PROJECT, ProjectOption, constructor_arguments, project_rules
from archer.errors import UserError, unknown
from archer.figures import duration

if TYPE_CHECKING:
    from rich.table import Table

    from archer.verify.result import Verification


def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py[:CLASS]", help="A rule file, or the class of a sequence mixer in a file."
        ),
    ],
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent", metavar="RULE", help="Compare with this rule, not with the file's own parent."
        ),
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    trust: Annotated[
        bool, typer.Option("--trust", help="Lift the language wall, for a file of your own.")
    ] = False,
    allow_many: Annotated[
        bool, typer.Option("--allow-many", help="Let several slots differ from the parent.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", "-a", metavar="NAME=JSON", help="An argument of the mixer's constructor."),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", metavar="N", min=1, help="D of the mixer's input [B, T, D]. Default: 32."),
    ] = None,
    readable: Annotated[
        list[Path] | None,
        typer.Option("--readable", metavar="DIR", help="A folder that the mixer's file imports from."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="WALL", help="Refuse to run without this wall (see doctor)."),
    ] = None,
) -> None:
    """Check a rule file or a mixer, in a contained process.

    A rule's parent is a built-in rule, or one that the project has accepted. A mixer is built as
    CLASS(width, **arguments), as `archer bench` builds it. Exit status: 0 passed, 1 rejected, 2 wrong input.

    \b
    Examples: archer verify my_rule.py
              archer verify my_mixer.py:MyMixer --argument heads=4 --width 64
    """
    path, _, class_name = target.rpartition(":")
    if path and class_name.isidentifier():
        if parent is not None or allow_many:
            raise UserError("--parent and --allow-many are for rule files; a mixer has no parent")
        found = _verify_mixer(path, class_name, argument or [], width or 32, readable or [], require or [])
    else:
        if argument or readable or width is not None:
            raise UserError(
                f"--argument, --width and --readable are for mixers; to check a class write '{target}:NAME'"
            )
        found = _verify_rule(target, project, parent, allow_many, trust, require or [])
    _show(found, as_json)
    if not found.passed:
        raise typer.Exit(1)


def _verify_mixer(
    path: str, class_name: str, arguments: list[str], width: int, readable: list[Path], require: list[str]
) -> Verification:
    from archer.verify.contained import verify_mixer_contained
    from archer.verify.language import load_source

    return verify_mixer_contained(
        load_source(path), class_name, constructor_arguments(arguments), width=width, require=require,
        readable=readable,
    )  # fmt: skip


def _verify_rule(
    path: str, project: Path, parent: str | None, allow_many: bool, trust: bool, require: list[str]
) -> Verification:
    from archer.verify.contained import verify_contained
    from archer.verify.language import load_source

    source, name = load_source(path), Path(path).stem
    return verify_contained(
        source, name, parent=parent, known=_others(name, project, parent), allow_many=allow_many, trust=trust,
        require=require,
    )  # fmt: skip


def _others(name: str, project: Path, parent: str | None) -> dict[str, str]:
    """The texts of the project's other rules. Raises UserError for a parent that is neither there nor built
    in."""
    from archer.rules import rule_names

    known = {other: text for other, text in project_rules(project).items() if other != name}
    if parent is not None and parent not in (*rule_names(), *known):
        raise unknown("rule", parent, (*rule_names(), *known))
    return known


def _show(verification: Verification, as_json: bool) -> None:
    if as_json:
        print_json(verification.to_dict())
    else:
        results().print(_table(verification))
        results().print(_summary(verification), markup=False)
    if verification.trusted:
        print_note(
            "the language wall was lifted; only the process wall stood between this code and the machine"
        )


def _table(verification: Verification) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading, justify in (("Check", "left"), ("", "left"), ("Time", "right"), ("Finding", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for check in verification.checks:
        mark = Text("passed", style="green") if check.passed else Text("FAILED", style="bold red")
        told = check.passed or not check.case or check.case in check.message
        case = "" if told else f"\nsmallest case: {check.case}"
        table.add_row(check.name, mark, duration(check.seconds, ABSENT), Text(check.message + case))
    return table


def _summary(verification: Verification) -> str:
    word = "passed" if verification.passed else "rejected"
    lines = [
        f"\n{verification.name}: {word} ({duration(sum(c.seconds for c in verification.checks), ABSENT)})"
    ]
    if verification.duplicate_of:
        lines.append(f"duplicate of: {verification.duplicate_of}")
    lines.append(f"walls: {', '.join(verification.walls) or 'none'}")
    return "\n".join(lines)
