"""`archer discover`: research cycles, unattended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.shared_run import Place, Proposing, with_options

if TYPE_CHECKING:
    from archer.cycle.campaign import Discovery
    from archer.ledger.records import CycleRecord, TaskComparison
    from archer.report.summary import Campaign

PRESET_WIDTH = 10
BY_WIDTH, RULE_WIDTH = (10, 18), (20, 38)
"""Columns for the names of a researcher and of a rule, where the table has to fit into 80, and into 120."""


@with_options
def command(
    place: Place,
    proposing: Proposing,
    cycles: Annotated[
        int | None, typer.Option("--cycles", min=1, metavar="N", help="Stop after so many candidates.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", metavar="HOURS", help="Stop so long after the campaign began.")
    ] = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(
            "--max-gpu-hours", metavar="HOURS", help="Stop when training has used GPUs for so long, added up."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="The top of the ladder: quick, baseline or full, with the cheaper ones below it; smoke "
            "alone; or the rungs, as quick,full. Default: baseline with a GPU, else smoke.",
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            metavar="N",
            help="Candidates that are trained together. Default: one for each GPU.",
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            "--share", min=0, max=1, metavar="SHARE", help="Share of proposals left to luck, for comparison."
        ),
    ] = 0.1,
) -> None:
    """Candidate after candidate, unattended, with a summary.

    Each is proposed, verified, trained and judged under the cheapest preset, and under the next one as long
    as it may still beat the reference on all six tasks. The next one is proposed meanwhile. With several GPUs
    (or --at-once) several are trained together under the cheapest preset.

    Interrupted at any moment, the same command continues. After a finished campaign it begins the next.

    \b
    Examples:
      archer discover --cycles 10
      archer discover --hours 8 --preset baseline --max-gpu-hours 6
      archer discover --hours 8 --model openai:gpt-5 --max-cost 5

    Exit status: 0 the campaign is over, 2 wrong input, 4 no cycle reached a verdict, 130 interrupted.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cycle import discover
    from archer.cycle.ladder import ladder_of

    ladder = ladder_of(preset, place.device)
    presets = tuple(dict.fromkeys(rung.preset for rung in ladder))
    asked = proposing.asked(place.project, presets[0].name)
    with LiveWatcher() as watcher:
        found = discover(
            place.project, cycles=cycles, hours=hours, max_gpu_hours=max_gpu_hours, preset=presets,
            at_once=at_once, share=share, resources=place.resources(), watcher=watcher, **asked,
        )  # fmt: skip
    _print(found)


def _print(found: Discovery) -> None:
    from archer.cli.console import results
    from archer.report.summary import describe_spent

    console = results()
    console.print(_table(found, console.width))
    console.print(f"Spent: {describe_spent(found.spent)}", soft_wrap=True)
    for path in found.reports:
        console.print(f"Summary: {path}", soft_wrap=True)
    if not found.campaign.verdicts:
        raise typer.Exit(4)


def _table(found: Discovery, width: int) -> Any:
    """One row per cycle: who proposed what, and how it stands against the reference on the mean."""
    from rich.console import Group
    from rich.text import Text

    from archer.cli.shared import ROOMY, plain_table

    campaign, table = found.campaign, plain_table(width)
    ranks = any(verdict.ranks for verdict in campaign.verdicts)
    for name in ("Cycle", "Preset", "By", "Rule", f"Mean − {campaign.reference}"):
        table.add_column(name, no_wrap=True)
    for name in "+−" if ranks else "":
        table.add_column(name, justify="right")
    widths = BY_WIDTH[width >= ROOMY], RULE_WIDTH[width >= ROOMY]
    for cycle in found.cycles:
        table.add_row(*map(Text, _cells(campaign, cycle, widths, ranks)))
    title = Text(f"Campaign {found.id}", style="bold")
    note = Text("Not judged: this preset ranks nothing. It shows that everything works.", style="dim")
    return Group(title, table) if ranks or not campaign.verdicts else Group(title, table, note)


def _cells(campaign: Campaign, cycle: CycleRecord, widths: tuple[int, int], ranks: bool) -> tuple[str, ...]:
    """A row. widths: of the researcher's and the rule's name. ranks: whether any verdict of the campaign
    ranks, so that words stand in its table."""
    from archer.cli.shared import ABSENT, folded

    proposal, verdict = campaign.proposal(cycle), campaign.verdict(cycle.proposal)
    names = (proposal.researcher, proposal.rule) if proposal else (ABSENT, ABSENT)
    start = (cycle.id, folded(cycle.preset, PRESET_WIDTH), *map(folded, names, widths))
    if verdict is None:
        return (*start, cycle.state)
    difference = _difference(verdict.against_reference.mean)
    if not ranks:
        return (*start, difference)
    if not verdict.ranks:
        return (*start, f"{difference}\nnot judged", ABSENT, ABSENT)
    words = [task.word for task in verdict.against_reference.tasks]
    mean = f"{difference}\n{verdict.against_reference.mean.word}"
    return (*start, mean, str(words.count("better")), str(words.count("worse")))


def _difference(line: TaskComparison) -> str:
    from archer.report.numbers import interval, signed

    if line.difference is None:
        return f"no score ({line.word})"
    return f"{signed(line.difference, '')} {interval(line.low, line.high, '')}".rstrip()
