"""What the commands that train have in common: their options, and what they print at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from archer.cycle.cycle import Result
    from archer.cycle.training import Resources

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", help="Project folder: ledger, rules, reports.")
]
PresetOption = Annotated[
    str, typer.Option("--preset", help="smoke, quick, baseline or full (see `archer mad`).")
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:1. Default: all GPUs, or the CPU where there is none."),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of mad-lab's published benchmark data, used instead of generated."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option("--budget-seconds", help="Stop training after so long; the same command continues."),
]
LanguageOption = Annotated[str, typer.Option("--language", help="Language of the report: en or zh.")]

STATUS = {"finished": 0, "rejected": 3, "failed": 4}


def resources(device: str | None, data: Path | None, budget_seconds: float | None) -> Resources:
    """The options as a cycle takes them."""
    from archer.cycle.training import Resources

    return Resources(device=device, data_dir=data, budget_seconds=budget_seconds)


def finish(result: Result) -> None:
    """Prints the table and the paths, and leaves with the status that says what happened."""
    from archer.cli.console import results
    from archer.report import final_table

    console = results()
    if result.cycle.state == "rejected":
        console.print(f"No proposal passed verification. The last one: {result.cycle.message}")
    elif result.cycle.state == "failed":
        console.print("No run finished: nothing can be said. The report lists what went wrong.")
    console.print(final_table(result.facts, paths=result.reports))
    raise typer.Exit(STATUS[result.cycle.state])
