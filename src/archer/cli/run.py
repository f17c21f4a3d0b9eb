"""`archer run`: one research cycle."""

from __future__ import annotations

from archer.cli.shared_run import Proposing, Training, with_options


@with_options
def command(training: Training, proposing: Proposing) -> None:
    """One research cycle, from the history to a report.

    Reads the history, proposes one change, verifies it, trains it, judges it and writes the report.
    Interrupted at any moment, the same command continues. After a finished cycle it begins the next.

    \b
    Examples:
      archer run
      archer run --preset baseline --history my_table.csv
      archer run --preset quick --until-decided --max-seeds 13
      archer run --model openai:qwen3 --base-url http://localhost:11434/v1

    Exit status: 0 a verdict was reached, 2 wrong input, 3 every proposal was rejected, 4 no run finished,
    5 the budget of time is used up, 130 interrupted.
    """
    from archer.cli.progress import LiveWatcher
    from archer.cli.shared_run import finish
    from archer.cycle import run

    asked = training.asked() | proposing.asked(training.project, training.preset)
    with LiveWatcher() as watcher:
        result = run(watcher=watcher, **asked)
    finish(result)
