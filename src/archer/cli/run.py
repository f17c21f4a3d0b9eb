"""`archer run`: one research cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archer.cli.shared_run import BudgetOption, DataOption, DeviceOption, PresetOption, ProjectOption

PROJECT = Path("archer-project")


def command(
    project: ProjectOption = PROJECT,
    preset: PresetOption = "smoke",
    history: Annotated[
        Path | None, typer.Option("--history", help="A table of past results, instead of the built-in ones.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the researcher.")] = 0,
    device: DeviceOption = None,
    data: DataOption = None,
    budget_seconds: BudgetOption = None,
) -> None:
    """One research cycle: read the history, propose one change, verify, train, judge, report.

    Interrupted at any moment, the same command continues. After a finished cycle it begins the next.

    \b
    Examples:
      archer run
      archer run --preset baseline --history my_table.csv

    Exit status: 0 a verdict was reached, 3 every proposal was rejected, 4 no run finished, 2 wrong input.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import finish, resources
    from archer.cycle import run

    with LiveWatcher() as watcher:
        result = run(
            project, preset=preset, history=history, seed=seed, watcher=watcher,
            resources=resources(device, data, budget_seconds),
        )  # fmt: skip
    finish(result)
