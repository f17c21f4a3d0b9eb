"""How long a training may still take, told from what it has done so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from archer.fleet.run import Run


class Remaining:
    """Counts the tokens that are left, and how many of them a second takes.

    Every token counts the same, whatever the rule; runs that stop early take what they have left with them,
    so that the time told is mostly more than it comes to. Ages are told by training processes (see the event
    "epoch" of `archer.fleet.train`); what one says of runs that nobody asked for is not heard.
    """

    def __init__(self, runs: Iterable[Run], clock: Callable[[], float] = time.monotonic) -> None:
        self.runs = {run.key: run for run in runs}
        self.ages: dict[str, int] = {}
        self.clock, self.began, self.trained = clock, clock(), 0

    def hears(self, ages: Mapping[str, Any]) -> None:
        """How many epochs old runs are by now. What a run had behind it when it was first heard of was
        trained by an earlier process, but for its last epoch."""
        for key, age in ages.items():
            if key in self.runs and isinstance(age, int):
                self.trained += (age - self.ages.get(key, age - 1)) * self.runs[key].epoch_tokens
                self.ages[key] = age

    def is_over(self, key: str) -> None:
        """This run takes no more time."""
        self.runs.pop(key, None)

    @property
    def seconds(self) -> float | None:
        """At the pace so far; None before anything was trained."""
        left = sum(
            run.epoch_tokens * (run.recipe.epochs - self.ages.get(key, 0)) for key, run in self.runs.items()
        )
        return left * (self.clock() - self.began) / self.trained if self.trained > 0 else None
