"""Which runs are trained together, and where: groups of equal shape, handed out whole."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from archer.fleet.run import Run


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that one fleet can train, together; each run once, in the order given."""
    groups: dict[Any, list[Run]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault(run.group, []).append(run)
    return list(groups.values())


class Waiting:
    """Whole groups that wait for a process: each goes to the least loaded device, the heaviest first; a place
    whose device has none left takes another's."""

    def __init__(self, runs: Sequence[Run], devices: int) -> None:
        self._lock = threading.Lock()
        self._of: list[deque[list[Run]]] = [deque() for _ in range(devices)]
        for group in sorted(grouped(runs), key=_weight, reverse=True):
            min(self._of, key=_load).append(group)

    def first(self, places: int) -> list[tuple[int, list[Run]]]:
        """The first groups of so many places, of which neighbours are on different devices; a place for which
        there is none is left out. It takes another device's only where that has more than it can begin."""
        own = {place: self._of[place % len(self._of)] for place in range(places)}
        taken = {place: groups.popleft() for place, groups in own.items() if groups}
        for place in own:
            if place not in taken and (group := self.take(place)):
                taken[place] = group
        return sorted(taken.items())

    def take(self, place: int) -> list[Run]:
        """The next group of a place; an empty one where there is none."""
        with self._lock:
            groups = self._of[place % len(self._of)] or max(self._of, key=_load)
            return groups.popleft() if groups else []


def _load(groups: Iterable[list[Run]]) -> int:
    return sum(map(_weight, groups))


def _weight(group: list[Run]) -> int:
    """What a group may train at most: tokens."""
    return sum(run.setting.train_examples * run.padded_length * run.recipe.epochs for run in group)
