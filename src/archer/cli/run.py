"""`archer run`: one research cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archer.cli.shared_run import Proposing, Training, with_options


@with_options
def command(
    training: Training,
    proposing: Proposing,
    history: Annotated[
        Path | None, typer.Option("--history", help="A table of past results, instead of the built-in ones.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the researcher.")] = 0,
) -> None:
    """One research cycle: read the history, propose one change, verify, train, judge, report.

    Interrupted at any moment, the same command continues. After a finished cycle it begins the next.

    \b
    Examples:
      archer run
      archer run --preset baseline --history my_table.csv
      archer run --preset quick --until-decided --max-seeds 13
      archer run --model ollama:qwen3 --base-url http://localhost:11434/v1

    Exit status: 0 a verdict was reached, 2 wrong input, 3 every proposal was rejected, 4 no run finished,
    5 the budget of time is used up, 130 interrupted.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import finish, researcher_of
    from archer.cycle import run

    asked = training.asked()
    researcher = researcher_of(training.project, training.preset, **vars(proposing))
    with LiveWatcher() as watcher:
        result = run(history=history, seed=seed, researcher=researcher, watcher=watcher, **asked)
    finish(result)
