"""How long a training may still take, told from what it has done so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from archer.fleet.run import Run


class Remaining:
    """Counts the tokens that are left, and how many of them a second takes.

    Every token counts the same, whatever the rule. Runs that stop early take what they have left with them,
    so that the time told is mostly more than what comes.
    """

    def __init__(self, runs: Iterable[Run], clock: Callable[[], float] = time.monotonic) -> None:
        self.runs = {run.key: run for run in runs}
        self.ages: dict[str, float] = {}
        self.clock, self.began, self.trained = clock, clock(), 0.0

    def after(self, event: Mapping[str, Any]) -> float | None:
        """Seconds, once a fleet has said how many epochs old its members are (see `archer.fleet.train`).

        None where nothing is gained yet. How old a run is when it is first heard of says nothing of the pace:
        an earlier process may have trained it. What is no age of a run that was asked for is not heard.
        """
        ages = event.get("ages")
        for key, age in ages.items() if isinstance(ages, dict) else ():
            run = self.runs.get(key)
            if run and isinstance(age, int | float) and 0 <= age <= run.recipe.epochs:
                self.trained += (age - self.ages.get(key, age)) * run.epoch_tokens
                self.ages[key] = age
        left = sum(
            run.epoch_tokens * (run.recipe.epochs - self.ages.get(key, 0)) for key, run in self.runs.items()
        )
        return max(0.0, left * (self.clock() - self.began) / self.trained) if self.trained >= 1 else None

    def is_over(self, key: str) -> None:
        """This run takes no more time."""
        self.runs.pop(key, None)
