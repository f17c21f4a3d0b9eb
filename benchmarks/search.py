"""Is the structured researcher better than chance? Candidates needed to reach the best decile, against
random.

    python benchmarks/search.py                             a synthetic landscape (see below)
    python benchmarks/search.py --runs results/runs.csv     recorded runs, in the form of the ledger's CSV
    export

A landscape is a pool of rules with known scores on the six tasks. A searcher takes candidates from the pool
one by
one, sees the measured scores of what it took, and stops at the first one of the best decile. What is ranked
is the
goal of the search: the smallest margin over the reference among the six tasks.

The synthetic landscape is NOT a measurement of rules. Its pool are real single changes of real rules, but
their
scores are drawn anew in every repeat: each kind of change gets effects on the tasks that are resampled from
the
differences in the built-in history (its sign and its task kept, its kind of change not), constants have an
optimum
somewhere, two changed slots interact at random, some kinds fail outright, and noise of the history's size is
added.
It says whether the search finds structure where there is some; only `--runs` can say that real rules have it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archer.ledger.history import builtin_history
from archer.ledger.records import TASKS
from archer.research.context import history_measurements
from archer.research.researcher import Context, Measurement
from archer.research.rule_text import library_sources
from archer.research.space import Composition, Space
from archer.research.structured import again_price, elite_turn, labels, outlook, promise
from archer.research.surrogate import Point, TaskSurrogate, fit, stretch, unstretch
from archer.research.words import differences

NOISE = 0.02
"""Standard deviation of a score, as eight equal functions of the history show on Memorize."""

FAILURES = 0.15
PARENTS = ("delta_net", "gated_delta_net", "hybrid", "softmax", "decay")
REFERENCE = "gated_delta_net"


@dataclass(frozen=True)
class Landscape:
    """A pool: compositions, the parents they come from, and scores [pool, tasks], true and as measured."""

    compositions: tuple[Composition, ...]
    parents: tuple[str, ...]
    truth: NDArray[np.floating]
    measured: NDArray[np.floating]
    reference: Composition
    reference_scores: NDArray[np.floating]

    @property
    def best(self) -> NDArray[np.bool_]:
        """Who belongs to the best decile by the smallest margin over the reference."""
        margin = (self.truth - self.reference_scores).min(1)
        return margin >= np.quantile(margin, 0.9)


def synthetic(space: Space, pool: tuple[tuple[Composition, str], ...], seed: int) -> Landscape:
    """A landscape drawn anew: see the head of this file."""
    generator = np.random.default_rng([seed, 17])
    seen = differences(Context(sources={}, history=_history()))
    gains = [np.array([stretch(s.score) - stretch(s.base) for s in seen if s.task == task]) for task in TASKS]
    level = stretch(generator.uniform(0.2, 0.9, len(TASKS)))
    effects: dict[tuple[str, str], NDArray[np.floating]] = {}
    optima: dict[tuple[str, str], NDArray[np.floating]] = {}

    def value(composition: Composition) -> NDArray[np.floating]:
        total, kinds = level.copy(), []
        for choice in composition:
            kind = (choice.slot, choice.label)
            if kind not in effects:
                drawn = np.array([generator.choice(gain) for gain in gains])
                failed = generator.random() < FAILURES
                effects[kind] = np.clip(drawn, -1.0, 1.5) - (2.0 if failed else 0.0)
                optima[kind] = generator.normal(0, 1, 8)
            off = sum((c - o) ** 2 for c, o in zip(choice.constants, optima[kind], strict=False))
            total = total + effects[kind] - 0.1 * min(off, 9.0)
            kinds.append(kind)
        if len(kinds) > 1:
            total = total + np.random.default_rng(abs(hash_of(kinds)) + seed).normal(0, 0.2, len(TASKS))
        return total

    truth = np.array([unstretch(value(composition)) for composition, _ in pool])
    reference = space.composition(REFERENCE)
    noise = generator.normal(0, NOISE, truth.shape)
    return Landscape(
        tuple(c for c, _ in pool),
        tuple(p for _, p in pool),
        truth,
        np.clip(truth + noise, 0, 1),
        reference,
        unstretch(value(reference)),
    )


def hash_of(kinds: list[tuple[str, str]]) -> int:
    """A number for a set of changes that is the same in every process."""
    import zlib

    return zlib.crc32(repr(sorted(kinds)).encode())


def recorded(space: Space, path: Path, preset: str | None) -> Landscape:
    """The rules of a CSV export that have scores on all six tasks. Names must be built in or composed."""
    from archer.ledger.runs_csv import read_runs
    from archer.ledger.summary import score_table

    runs = read_runs(path)
    preset = preset or max({run.preset for run in runs}, key=lambda name: sum(r.preset == name for r in runs))
    rows = [row for row in score_table(runs, preset) if all(x is not None for x in row.scores.values())]
    found = {row.rule: np.array([row.scores[task] for task in TASKS], dtype=float) for row in rows}
    if REFERENCE not in found:
        raise SystemExit(f"{path}: {REFERENCE} has no scores on all six tasks under preset {preset}")
    names = [name for name in found if name not in (REFERENCE, space.base) and _known(space, name)]
    if len(names) < 20:
        raise SystemExit(
            f"{path}: {len(names)} rules with all scores under {preset}; a decile needs 20 or more"
        )
    scores = np.array([found[name] for name in names])
    compositions = tuple(space.composition(name) for name in names)
    parents = tuple(space.rules[name].parent or space.base for name in names)
    return Landscape(compositions, parents, scores, scores, space.composition(REFERENCE), found[REFERENCE])


def _known(space: Space, name: str) -> bool:
    if name not in space.rules and "+" in name:
        from archer.research.rule_text import read_rule
        from archer.rules import get_rule

        space.rules[name] = read_rule(get_rule(name).source, name)
    return name in space.rules


def guided(space: Space, land: Landscape, seed: int) -> int:
    """How many candidates the researcher takes to the first of the best decile."""
    context = Context(sources={}, preset="bench", seed=seed)
    left, taken = list(range(len(land.compositions))), []
    reference = [Point(land.reference, "bench", float(x)) for x in land.reference_scores]
    while left:
        surrogates: dict[str, TaskSurrogate] = {}
        for column, task in enumerate(TASKS):
            points = [Point(land.compositions[i], "bench", float(land.measured[i, column])) for i in taken]
            surrogates[task] = fit([reference[column], *points], {})
        look = outlook(context, space, surrogates, [land.compositions[i] for i in left])
        before = Counter(labels(land.compositions[i]) for i in taken)
        again = np.array([before[labels(land.compositions[i])] for i in left], dtype=float)
        value = promise(look, seed, len(taken)) - again_price(again)
        task = elite_turn(len(taken), seed)
        if task is not None:
            home = _elite_parent(space, context, surrogates, land, left, task)
            value = np.where([land.parents[i] == home for i in left], value, -np.inf)
        index = left.pop(int(np.argmax(value)))
        taken.append(index)
        if land.best[index]:
            return len(taken)
    raise AssertionError("the best decile is never empty")


def _elite_parent(
    space: Space,
    context: Context,
    surrogates: dict[str, TaskSurrogate],
    land: Landscape,
    left: list[int],
    task: str,
) -> str:
    names = sorted({land.parents[i] for i in left})
    look = outlook(context, space, surrogates, [space.composition(name) for name in names])
    column = TASKS.index(task)
    return names[int(np.argmax(look.mean[:, column] - 1.645 * look.deviation[:, column]))]


def random_draws(land: Landscape, seed: int) -> int:
    """How many candidates a random order takes."""
    order = np.random.default_rng([seed, 3]).permutation(len(land.compositions))
    return int(np.argmax(land.best[order])) + 1


def interval(values: NDArray[np.floating], seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean, by 10,000 resamplings."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(10_000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


@cache
def _history() -> tuple[Measurement, ...]:
    return history_measurements(builtin_history(), library_sources())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=Path, help="the ledger's CSV export; without it the landscape is synthetic"
    )
    parser.add_argument("--preset", help="which preset of the export; the most frequent one if left out")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--pool", type=int, default=300, help="candidates in the synthetic pool")
    options = parser.parse_args()
    started = time.perf_counter()
    space = Space(library_sources())
    if options.runs:
        land = recorded(space, options.runs, options.preset)
        lands = [land] * options.repeats
    else:
        changes = list(space.changes(PARENTS))
        chosen = np.random.default_rng(0).permutation(len(changes))[: options.pool]
        pool = tuple((changes[i].composition, changes[i].parent) for i in sorted(chosen))
        lands = [synthetic(space, pool, seed) for seed in range(options.repeats)]
    ours = np.array([guided(space, land, seed) for seed, land in enumerate(lands)], dtype=float)
    luck = np.array([random_draws(land, seed) for seed, land in enumerate(lands)], dtype=float)
    print(
        json.dumps(
            {
                "landscape": str(options.runs)
                if options.runs
                else "synthetic, effects resampled from the history",
                "repeats": options.repeats,
                "pool": len(lands[0].compositions),
                "candidates_to_best_decile": {"researcher": ours.mean(), "random": luck.mean()},
                "median": {"researcher": float(np.median(ours)), "random": float(np.median(luck))},
                "interval_researcher": interval(ours),
                "interval_random": interval(luck),
                "fewer_than_random": float((luck - ours).mean()),
                "interval_fewer_than_random": interval(luck - ours),
                "random_in_theory": (len(lands[0].compositions) + 1) / (int(lands[0].best.sum()) + 1),
                "better_than_chance": interval(luck - ours)[0] > 0,
                "seconds": round(time.perf_counter() - started, 1),
                "machine": platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
