"""`archer discover`: research cycles, unattended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.shared_run import (
    AddressOption,
    CostOption,
    DataOption,
    DeviceOption,
    ModelOption,
    ProjectOption,
    ReplayOption,
)

if TYPE_CHECKING:
    from archer.cycle.campaign import Discovery
    from archer.ledger.records import CycleRecord
    from archer.report.summary import Campaign

PROJECT = Path("archer-project")


def command(
    project: ProjectOption = PROJECT,
    cycles: Annotated[
        int | None, typer.Option("--cycles", min=1, help="Stop after so many candidates.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="Stop so long after the campaign began.")
    ] = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option("--max-gpu-hours", help="Stop when training has used GPUs for so long, added up."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="The top of the ladder: quick, baseline or full, with the cheaper ones below it; smoke "
            "alone; or the rungs, as quick,full. Default: baseline with a GPU, else smoke.",
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option("--share", min=0, max=1, help="Share of proposals left to luck, for comparison."),
    ] = 0.1,
    history: Annotated[
        Path | None, typer.Option("--history", help="A table of past results, instead of the built-in ones.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the researcher.")] = 0,
    device: DeviceOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    base_url: AddressOption = None,
    max_cost: CostOption = None,
    replay: ReplayOption = None,
) -> None:
    """Candidate after candidate, unattended, cheap before dear; a summary at the end.

    Each is proposed, verified, trained and judged under the cheapest preset, and under the next one as long
    as it may still beat the reference on all six tasks. The next one is proposed meanwhile.

    Interrupted at any moment, the same command continues. After a finished campaign it begins the next.

    \b
    Examples:
      archer discover --cycles 10
      archer discover --hours 8 --preset baseline --max-gpu-hours 6
      archer discover --hours 8 --model openai:gpt-5 --max-cost 5

    Exit status: 0 the campaign is over, 2 wrong input, 4 no cycle reached a verdict, 130 interrupted.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import researcher_of, resources
    from archer.cycle import discover
    from archer.cycle.ladder import ladder_of

    ladder = ladder_of(preset, device)
    presets = tuple(dict.fromkeys(rung.preset for rung in ladder))
    researcher = researcher_of(project, ladder[0].preset.name, model, base_url, max_cost, replay)
    with LiveWatcher() as watcher:
        found = discover(
            project, cycles=cycles, hours=hours, max_gpu_hours=max_gpu_hours, preset=presets, history=history,
            seed=seed, share=share, researcher=researcher, resources=resources(device, data, None),
            watcher=watcher,
        )  # fmt: skip
    _print(found, max_gpu_hours)


def _print(found: Discovery, max_gpu_hours: float | None) -> None:
    from archer.cli.console import results
    from archer.cycle.campaign import describe_spent

    console = results()
    console.print(_table(found))
    console.print(f"Spent: {describe_spent(found.spent, max_gpu_hours)}", soft_wrap=True)
    for path in found.reports:
        console.print(f"Summary: {path}", soft_wrap=True)
    if not found.campaign.verdicts:
        raise typer.Exit(4)


def _table(found: Discovery) -> Any:
    """One row per cycle: who proposed what, and how it stands against the reference on the mean."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"Campaign {found.id}", title_justify="left")
    difference = f"Mean − {found.campaign.reference}"
    for name in ("Cycle", "Preset", "By", "Rule", "Parent", "State", difference, "+", "−"):
        table.add_column(name, justify="right" if name in "+−" else "left")
    for cycle in found.cycles:
        table.add_row(*(escape(cell) for cell in _cells(found.campaign, cycle)))
    return table


def _cells(campaign: Campaign, cycle: CycleRecord) -> tuple[str, ...]:
    proposal, verdict = campaign.proposal(cycle), campaign.verdict(cycle.proposal)
    named = (proposal.researcher, proposal.rule, proposal.parent) if proposal else ("", "", "")
    start = (cycle.id, cycle.preset, *named, cycle.state)
    if verdict is None:
        return (*start, "", "", "")
    mean, words = verdict.against_reference.mean, [t.word for t in verdict.against_reference.tasks]
    return (*start, _difference(mean), str(words.count("better")), str(words.count("worse")))


def _difference(line: Any) -> str:
    if line.difference is None:
        return f"no score ({line.word})"
    if line.low is None or line.high is None:
        return f"{line.difference:+.3f} ({line.word})"
    return f"{line.difference:+.3f} [{line.low:+.3f}, {line.high:+.3f}] ({line.word})"
