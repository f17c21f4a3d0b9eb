"""`archer bench`: train and compare named rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from archer.cli.shared_run import BudgetOption, DataOption, DeviceOption, PresetOption, ProjectOption

PROJECT = Path("archer-project")


def command(
    rules: Annotated[
        list[str], typer.Argument(help="Rule names, rule files, or file.py:ClassName of a module.")
    ],
    project: ProjectOption = PROJECT,
    preset: PresetOption = "smoke",
    reference: Annotated[
        str, typer.Option("--reference", help="The rule to compare with.")
    ] = "gated_delta_net",
    argument: Annotated[
        list[str] | None, typer.Option("--argument", help="A module's constructor argument, name=JSON.")
    ] = None,
    schedule: Annotated[
        str, typer.Option("--schedule", help="Learning rate: constant or cosine.")
    ] = "constant",
    trust: Annotated[
        bool, typer.Option("--trust", help="Lift the language wall for rule files of your own.")
    ] = False,
    device: DeviceOption = None,
    data: DataOption = None,
    budget_seconds: BudgetOption = None,
) -> None:
    """Train rules beside each other and compare each with the reference.

    \b
    Examples:
      archer bench delta_net softmax hybrid
      archer bench my_mixer.py:MyMixer --argument heads=4 --preset quick

    A module must map [B, T, D] to [B, T, D]; it is built as ClassName(width, **arguments).
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import finish, resources
    from archer.cycle import bench

    arguments = dict(_argument(text) for text in argument or [])
    with LiveWatcher() as watcher:
        result = bench(
            rules, project, preset=preset, reference=reference, arguments=arguments, schedule=schedule,
            trust=trust, watcher=watcher, resources=resources(device, data, budget_seconds),
        )  # fmt: skip
    finish(result)


def _argument(text: str) -> tuple[str, object]:
    from archer.errors import UserError

    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--argument {text!r}: expected name=value, e.g. heads=4")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
