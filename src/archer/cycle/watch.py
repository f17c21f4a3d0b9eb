"""What a cycle tells while it works. The command line draws it; a program may ignore it."""

from __future__ import annotations

from typing import Any

from archer.ledger.records import RunRecord


class Watcher:
    """Hears what happens; every method may be left as it is."""

    def phase(self, name: str, detail: str = "") -> None:
        """A new part of the cycle begins: "history", "propose", "verify", "train", "judge", "report"."""

    def training(self, runs: int, known: int) -> None:
        """So many runs are wanted, of which so many are in the ledger already."""

    def event(self, event: dict[str, Any]) -> None:
        """Something that a training process said (see `archer.fleet.train`)."""

    def left(self, seconds: float) -> None:
        """How long the training still takes at most, at its pace so far."""

    def finished(self, record: RunRecord) -> None:
        """One run is over, and in the ledger."""

    def note(self, message: str) -> None:
        """A sentence for the person who watches."""
