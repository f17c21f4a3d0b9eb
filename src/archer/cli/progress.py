"""What the terminal shows while a cycle works: its phases as lines, its training as live bars."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from archer.cycle.watch import Watcher

if TYPE_CHECKING:
    from archer.ledger.records import RunRecord

PHASES = {
    "cycle": "Cycle",
    "history": "Read the history",
    "propose": "Propose",
    "verify": "Verify",
    "train": "Train",
    "confirm": "Confirm",
    "judge": "Judge",
    "report": "Report",
}

LONGEST_NAME = 20
"""Columns for a rule's name beside its bar."""


class LiveWatcher(Watcher, AbstractContextManager["LiveWatcher"]):
    """Draws on standard error: one line per phase, one bar over all runs, one per fleet that is training."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        from archer.cli.console import progress

        self.console = progress()
        whole = Column(no_wrap=True)
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # gives way first where the line is short
        self.bars = Progress(
            TextColumn("  {task.description}", markup=False, table_column=whole),
            BarColumn(12, table_column=whole), MofNCompleteColumn(table_column=whole),
            TimeElapsedColumn(table_column=whole),
            TextColumn("{task.fields[seen]}", style="dim", markup=False, table_column=rest),
            console=self.console, transient=True, expand=True,
        )  # fmt: skip
        self.runs: Any = None
        self.fleets: dict[str, Any] = {}
        self.said: set[str] = set()

    def __enter__(self) -> LiveWatcher:
        return self

    def __exit__(self, *details: object) -> None:
        if self.bars.live.is_started:
            self.bars.stop()

    def phase(self, name: str, detail: str = "") -> None:
        """One line: what begins, and with what."""
        self._say(
            f"[bold]{PHASES.get(name, name)}[/bold]" + (f"  [dim]{_plain(detail)}[/dim]" if detail else "")
        )

    def note(self, message: str) -> None:
        """A sentence, indented under its phase."""
        self._say(f"  {_plain(message)}")

    def _say(self, line: str) -> None:
        """One line; only a terminal breaks it."""
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def training(self, runs: int, known: int) -> None:
        """Starts the bar over all runs."""
        if known:
            self.note(f"{known} of {runs} runs are in the ledger already")
        for bar in (self.runs, *self.fleets.values()):
            if bar is not None:
                self.bars.remove_task(bar)
        self.runs, self.fleets = None, {}
        if runs > known:
            self.bars.start()  # not before: without a bar it would leave an empty line
            self.runs = self.bars.add_task("runs", total=runs, completed=known, seen="")

    def event(self, event: dict[str, Any]) -> None:
        """Moves the bar of the fleet that spoke."""
        device = str(event.get("device", ""))
        if event["event"] == "fleet":
            if device in self.fleets:
                self.bars.remove_task(self.fleets.pop(device))
            text = f"{shorten(event['subject'])} × {event['members']} on {device}"
            seen = f"{event['parameters']:,} parameters each; {_tasks(event['settings'])}"
            self.fleets[device] = self.bars.add_task(text, total=event["epochs"], seen=seen)
        elif event["event"] == "steps" and device in self.fleets:
            self.bars.update(self.fleets[device], completed=event["epoch"])
        elif event["event"] == "epoch" and device in self.fleets:
            seen = "  ".join(f"{task} {score:.2f}" for task, score in event["best"].items())
            self.bars.update(self.fleets[device], completed=event["epoch"], seen=seen)
        elif event["event"] == "unsaved" and event["message"] not in self.said:
            self.said.add(event["message"])
            self.note(f"{event['message']}; training goes on, but an interruption costs its work")
        elif event["event"] == "alone" and event["subject"] not in self.said:
            self.said.add(event["subject"])
            self.note(f"no fleet takes {event['subject']}; its runs are trained alone: {event['message']}")
        elif event["event"] == "plainer" and event["message"] not in self.said:
            self.said.add(event["message"])
            without = f"{event['subject']} is trained without {event['without']}, slower"
            self.note(f"{without}: {event['message']}")
        elif event["event"] == "smaller":
            self.note(f"{device} is out of memory: going on with {event['members']} runs at a time")

    def left(self, seconds: float) -> None:
        """Beside the bar over all runs."""
        if self.runs is not None:
            self.bars.update(self.runs, seen=f"up to {duration(seconds)} left")

    def finished(self, record: RunRecord) -> None:
        """One run more; what went wrong is said at once."""
        if self.runs is not None:
            self.bars.advance(self.runs)
        if record.status not in ("finished", "dropped"):
            self.note(f"{record.rule} on {record.setting}: {record.status}: {record.message}")


def duration(seconds: float) -> str:
    """Rounded up, in the one or two units in which it is said: 1 min, 2 h 5 min, 3 days 4 h."""
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{max(1, minutes)} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = math.ceil(minutes / 60)
    return f"{hours // 24} days {hours % 24} h"


def shorten(name: str) -> str:
    """A rule's name with its middle left out where it would push the scores off a line of 80."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half + 1 :]}"


def _tasks(settings: list[str]) -> str:
    return ", ".join(sorted({name.split("-v")[0] for name in settings}))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
