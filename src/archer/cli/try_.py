"""`archer try`: a cycle with a rule that a person wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archer.cli.shared_run import Training, with_options


@with_options
def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.py", help="A rule file; its name is the rule's name.")
    ],
    training: Training,
    trust: Annotated[
        bool, typer.Option("--trust", help="Lift the language wall for this file of your own.")
    ] = False,
    allow_many: Annotated[
        bool, typer.Option("--allow-many", help="Accept changes in more than one slot.")
    ] = False,
) -> None:
    """A research cycle with a rule of your own.

    It is verified, trained beside its parent and Gated DeltaNet, and judged.

    \b
    Examples:
      archer try my_rule.py
      archer try my_rule.py --preset baseline
      archer try my_rule.py --preset quick --until-decided

    `archer new my_rule` writes a commented template to start from.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import finish
    from archer.cycle import try_rule

    asked = training.asked()
    with LiveWatcher() as watcher:
        result = try_rule(file, trust=trust, allow_many=allow_many, watcher=watcher, **asked)
    finish(result)
