"""Racing: grid points that lose clearly are dropped before their end, by successive halving.

Racers are the grid points (learning rate by weight decay) of one setting and seed; nothing else is compared.
At each rung the lower part of them leaves, as far as it is well behind the best (Jamieson 2016,
arXiv:1502.07943; the distance that is asked for is ours, because runs that all wait for the sudden drop of
their loss differ by noise alone). Once one of them has reached the accuracy at which a run stops early, no
other can be chosen over it by more than what is left, and the race is over.

A run that ends was not touched by the race: it has the result that it would have had without.
`benchmarks/race.py` measures how often the winner is dropped, and what that costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from archer.fleet.run import Evaluation, Outcome, Recipe, Run
from archer.fleet.wire import outcome_from_json, outcome_to_json


@dataclass(frozen=True)
class Race:
    """When to compare, and whom to let go.

    rungs: shares of all epochs. keep: share of the racers that stay at a rung, rounded up. behind: a racer
    is dropped only if its validation accuracy is lower than the best by more than this.
    """

    rungs: tuple[float, ...] = (0.25, 0.5)
    keep: float = 0.5
    behind: float = 0.1

    def epochs(self, recipe: Recipe) -> tuple[int, ...]:
        """The rungs in epochs: each at an evaluation, and before the end."""
        every = recipe.evaluate_every
        found = (math.ceil(rung * recipe.epochs / every) * every for rung in self.rungs)
        return tuple(epoch for epoch in dict.fromkeys(found) if 0 < epoch < recipe.epochs)


def race_from_json(data: Mapping[str, Any] | None) -> Race | None:
    """What `dataclasses.asdict` made of a race."""
    return Race(**{**data, "rungs": tuple(data["rungs"])}) if data else None


@dataclass(frozen=True)
class Racer:
    """What a race knows of a run. place: the setting and seed for which it runs. running: not over yet."""

    key: str
    place: tuple[str, int]
    epoch: int
    curve: tuple[Evaluation, ...]
    running: bool

    def standing(self, epoch: int) -> tuple[float, float] | None:
        """Validation accuracy where the validation loss was lowest until then, and minus that loss.

        That is by what a grid point is chosen at the end. None without an evaluation until then.
        """
        seen = [point for point in self.curve if point.epoch <= epoch]
        if not seen:
            return None
        best = min(seen, key=lambda point: point.validation_loss)
        return best.validation_accuracy, -best.validation_loss


def losers(racers: Iterable[Racer], race: Race, recipe: Recipe) -> dict[str, str]:
    """Which running racers to drop now: key to the reason, in words.

    Depends on the curves alone: asked again, it gives the same answer for all who are still there.
    """
    by_place: dict[tuple[str, int], list[Racer]] = {}
    for racer in racers:
        by_place.setdefault(racer.place, []).append(racer)
    found: dict[str, str] = {}
    for group in by_place.values():
        found |= _after_a_win(group, recipe)
        for epoch in race.epochs(recipe):
            found |= _at_rung(group, epoch, race)
    running = {racer.key for group in by_place.values() for racer in group if racer.running}
    return {key: why for key, why in found.items() if key in running}


def _after_a_win(racers: Sequence[Racer], recipe: Recipe) -> dict[str, str]:
    for racer in racers:
        last = racer.curve[-1] if racer.curve else None
        if last and min(last.validation_accuracy, last.test_accuracy) >= recipe.stop_accuracy:
            why = f"another grid point reached {recipe.stop_accuracy:g} after {last.epoch} epochs"
            return {other.key: why for other in racers if other is not racer}
    return {}


def _at_rung(racers: Sequence[Racer], epoch: int, race: Race) -> dict[str, str]:
    """The losers at one rung; none before every running racer has come so far and was evaluated.

    A racer that ended earlier has its last standing; one that was dropped or diverged earlier takes no part.
    """
    field = [racer for racer in racers if racer.epoch >= epoch]
    standings = {racer.key: racer.standing(epoch) for racer in field}
    if None in standings.values() or any(racer.running for racer in racers if racer.epoch < epoch):
        return {}
    order = sorted(field, key=lambda racer: standings[racer.key] or (), reverse=True)
    stay = math.ceil(race.keep * len(order))
    best = (standings[order[0].key] or (0.0,))[0] if order else 0.0
    return {
        racer.key: f"dropped after {epoch} epochs: validation accuracy {own[0]:.3f}, "
        f"the best of {len(order)} grid points {best:.3f}"
        for racer in order[stay:]
        if (own := standings[racer.key]) and best - own[0] > race.behind
    }


class Track:
    """The race among the runs of one group while they come and go: their places, and who is over.

    `state` is what has to outlive the process, as plain data.
    """

    def __init__(self, race: Race, runs: Sequence[Run], state: Mapping[str, Any] | None = None) -> None:
        self.race, self.recipe = race, runs[0].recipe
        self.places = {key: (name, seed) for key, name, seed in (state or {}).get("places", ())}
        self.places |= {run.key: place_of(run) for run in runs}
        over = (outcome_from_json(saved, set(self.places)) for saved in (state or {}).get("over", ()))
        self.over: dict[str, Outcome] = {outcome.key: outcome for outcome in over}

    def left(self, outcomes: Iterable[Outcome]) -> None:
        """Remembers what is over: the others are measured by it."""
        self.over |= {outcome.key: outcome for outcome in outcomes}

    def racer(
        self, key: str, epoch: int = 0, curve: tuple[Evaluation, ...] = (), running: bool = True
    ) -> Racer:
        """One of the group's runs, as the race sees it."""
        return Racer(key, self.places[key], epoch, curve, running)

    def losers(self, racers: Iterable[Racer]) -> dict[str, str]:
        """See `losers`. racers: all that are not over, those that have not begun included."""
        gone = (self.racer(key, one.epochs, one.curve, False) for key, one in self.over.items())
        return losers([*racers, *gone], self.race, self.recipe)

    def state(self) -> dict[str, Any]:
        """Plain data, from which the track is made again."""
        places = [[key, *place] for key, place in self.places.items()]
        return {"places": places, "over": [outcome_to_json(one) for one in self.over.values()]}


def place_of(run: Run) -> tuple[str, int]:
    """What a run competes for: to be the grid point of its setting and seed."""
    return (run.setting.name, run.seed)


def together(runs: Iterable[Run]) -> list[Run]:
    """The same runs, those of one place side by side."""
    by_place: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        by_place.setdefault(place_of(run), []).append(run)
    return [run for group in by_place.values() for run in group]


def starters(waiting: Sequence[Run], free: int, room: int) -> int:
    """How many of the waiting runs start now: whole places, as many as are free. A place that is larger than
    the room starts as far as it fits; its other runs are measured by the first when they come so far."""
    count = 0
    for _, group in groupby(waiting, key=place_of):
        size = len(list(group))
        if count + size > free:
            return count or (free if size > room else 0)
        count += size
    return count
