"""`archer run`: one research cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archer.cli.shared_run import (
    AddressOption,
    BudgetOption,
    CostOption,
    DataOption,
    DeviceOption,
    ModelOption,
    PresetOption,
    ProjectOption,
    ReplayOption,
)

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
    model: ModelOption = None,
    base_url: AddressOption = None,
    max_cost: CostOption = None,
    replay: ReplayOption = None,
) -> None:
    """One research cycle: read the history, propose one change, verify, train, judge, report.

    Interrupted at any moment, the same command continues. After a finished cycle it begins the next.

    \b
    Examples:
      archer run
      archer run --preset baseline --history my_table.csv
      archer run --model ollama:qwen3 --base-url http://localhost:11434/v1

    Exit status: 0 a verdict was reached, 2 wrong input, 3 every proposal was rejected, 4 no run finished,
    5 the budget of time is used up, 130 interrupted.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import finish, researcher_of, resources
    from archer.cycle import run

    researcher = researcher_of(project, preset, model, base_url, max_cost, replay)
    with LiveWatcher() as watcher:
        result = run(
            project, preset=preset, history=history, seed=seed, watcher=watcher, researcher=researcher,
            resources=resources(device, data, budget_seconds),
        )  # fmt: skip
    finish(result)
