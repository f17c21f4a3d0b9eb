"""`archer bench`: train and compare named rules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_note
from archer.cli.shared import constructor_arguments
from archer.cli.shared_run import Training, with_options
from archer.errors import UserError

if TYPE_CHECKING:
    from archer.mad import Preset


@with_options
def command(
    rules: Annotated[
        list[str],
        typer.Argument(
            metavar="RULE",
            help="Rule names (the project's too), rule files, or file.py:ClassName of a module.",
        ),
    ],
    training: Training,
    reference: Annotated[
        str, typer.Option("--reference", metavar="RULE", help="The rule to compare with.")
    ] = "gated_delta_net",
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", metavar="NAME=JSON", help="A module's constructor argument, name=JSON."),
    ] = None,
    schedule: Annotated[
        str, typer.Option("--schedule", metavar="NAME", help="Learning rate: constant or cosine.")
    ] = "constant",
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            metavar="N",
            help="Another model width, e.g. for equal parameters; kept as PRESET-widthN.",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Lift the language wall for rule files of your own.")
    ] = False,
) -> None:
    """Train rules and compare each with the reference.

    \b
    Examples:
      archer bench delta_net softmax hybrid
      archer bench my_mixer.py:MyMixer --argument heads=4 --preset quick
      archer bench softmax hybrid --preset quick --until-decided

    A module must map [B, T, D] to [B, T, D]; it is built as ClassName(width, **arguments). The reference
    alone is trained, and compared with nothing.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import finish
    from archer.cycle import bench

    arguments = constructor_arguments(argument or [])
    if arguments and not any(":" in rule for rule in rules):
        raise UserError("--argument is for modules: none of these rules is a file.py:ClassName")
    if set(rules) == {reference}:
        print_note(f"{reference} is the reference itself: it is trained, and compared with nothing")
    asked: dict[str, Any] = {**training.asked(), "preset": _widened(training.preset, width)}
    with LiveWatcher() as watcher:
        result = bench(
            rules, reference=reference, arguments=arguments, schedule=schedule, trust=trust, watcher=watcher,
            **asked,
        )  # fmt: skip
    finish(result)


def _widened(preset: str, width: int | None) -> str | Preset:
    """The preset at another width, under a name of its own, so that runs never mix."""
    if width is None:
        return preset
    from archer.mad.presets import find_preset
    from archer.report.costs import widened_preset

    known = find_preset(preset)
    if width < known.heads or width % known.heads:
        raise UserError(f"--width {width}: expected a positive multiple of the preset's {known.heads} heads")
    return replace(known, name=widened_preset(preset, width), width=width)
