"""Is the structured researcher better than chance? Candidates to reach the best decile, against random order.

    python benchmarks/search.py                               a synthetic landscape (see below)
    python benchmarks/search.py --runs results/baseline.csv   recorded runs, as the ledger exports them
    python benchmarks/search.py --history fifteen_trials      a table of the built-in history: one seed

A landscape is a pool of rules with known scores on the six tasks. A searcher takes candidates from the pool
one by one, sees the measured scores of what it took, and stops at the first one of the best decile. What is
ranked is the goal of the search: the smallest margin over the reference among the six tasks. The researcher
starts cold: it knows the reference and the base, no history; with --informed it knows the built-in history
too, as in a project.

The synthetic landscape is NOT a measurement of rules. Its pool are real single changes of real rules, but
their scores are drawn anew in every repeat: each kind of change gets effects on the tasks that are resampled
from the differences in the built-in history (its sign and its task kept, its kind of change not), constants
have an optimum somewhere, two changed slots interact at random, some kinds fail outright, and noise of the
history's size is added. It says whether the search finds structure where there is some; only `--runs` can say
that real rules have it.

A recorded landscape is one table. It needs scores on all six tasks for gated_delta_net and for ten rules or
more of the library (where it lacks them, it is said which); delta_net and several seeds make it better. So
that the interval says more than how the dice fell, every repeat leaves a random fifth of the rules out, and
what the searcher sees is the mean over seeds drawn with replacement; the best decile is that of all seeds.
Repeats share most of their rules: for other rules the interval is too narrow. `resolution` says how coarse
the question is: with one member of the best decile more or less, random order would need the other two
numbers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archer.errors import UserError, exit_plainly, unknown
from archer.ledger.history import builtin_history
from archer.ledger.records import TASKS
from archer.mad import Preset
from archer.mad.presets import PRESETS
from archer.research.context import history_measurements
from archer.research.researcher import Context, Measurement
from archer.research.rule_text import library_sources
from archer.research.space import Composition, Space
from archer.research.structured import (
    again_price,
    elite_turn,
    labels,
    outlook,
    points_of,
    promise,
    reached,
)
from archer.research.surrogate import Point, TaskSurrogate, fit, stretch, unstretch
from archer.research.words import differences
from archer.rules import resolve_history_name

if TYPE_CHECKING:
    from archer.ledger.records import RunRecord

NOISE = 0.02
"""Standard deviation of a score, as eight equal functions of the history show on Memorize."""

FAILURES = 0.15
PARENTS = ("delta_net", "gated_delta_net", "hybrid", "softmax", "decay")
REFERENCE = "gated_delta_net"

FEWEST = 10
"""Rules that a recorded landscape must have at least: with fewer there is no decile."""

KEPT = 0.8
"""Share of a recorded landscape's rules that each repeat uses."""


@dataclass(frozen=True)
class Landscape:
    """A pool: compositions, the parents they come from, and scores [pool, tasks], true and as measured.

    known: further rules that a searcher knows from the start, with their scores. preset: the one that was
    recorded; its lengths say where a change of the state can show. informed: whether the searcher also knows
    the built-in history, as the researcher of a real project does.
    """

    compositions: tuple[Composition, ...]
    parents: tuple[str, ...]
    truth: NDArray[np.floating]
    measured: NDArray[np.floating]
    reference: Composition
    reference_scores: NDArray[np.floating]
    known: tuple[tuple[Composition, NDArray[np.floating]], ...] = ()
    preset: Preset | None = None
    informed: bool = False

    @property
    def best(self) -> NDArray[np.bool_]:
        """Who belongs to the best decile by the smallest margin over the reference."""
        return best_decile(self.truth, self.reference_scores)


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


@dataclass(frozen=True)
class Recorded:
    """Rules with all six scores. scores: [rules, seeds, tasks]. left_out: rules of the file that are not
    used, and why."""

    names: tuple[str, ...]
    scores: NDArray[np.floating]
    reference_scores: NDArray[np.floating]
    base_scores: NDArray[np.floating] | None
    preset: str
    left_out: dict[str, str]

    @property
    def stability(self) -> float | None:
        """How much of the best decile of one half of the seeds is in that of the other; None for one seed.

        1: seeds agree. 0.1: as much as chance.
        """
        seeds = self.scores.shape[1]
        if seeds < 2:
            return None
        halves = self.scores[:, : seeds // 2].mean(1), self.scores[:, seeds // 2 :].mean(1)
        first, second = (best_decile(half, self.reference_scores) for half in halves)
        return float((first & second).sum() / first.sum())


def best_decile(scores: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Who belongs to the best decile by the smallest margin over the reference. scores: [rules, tasks]."""
    margin = (scores - reference).min(1)
    return margin >= np.quantile(margin, 0.9)


def recorded(space: Space, path: Path, preset: str | None, without: Sequence[str] = ()) -> Recorded:
    """The rules of a results table that have scores on all six tasks with every seed that most rules have.

    Names must be built in or composed. Of a rule that was edited the text that was trained last counts.
    """
    from archer.ledger.runs_csv import read_runs

    everything = read_runs(path)
    for name in without:
        if all(run.rule != name for run in everything):
            raise unknown("rule", name, sorted({run.rule for run in everything}))
    runs = [run for run in everything if run.rule not in without]
    if not runs:
        raise UserError(
            f"{path} holds no run; `archer table --preset P --runs --csv P.csv` writes a table of runs"
        )
    preset = preset or Counter(run.preset for run in runs).most_common(1)[0][0]
    own = _current([run for run in runs if run.preset == preset])
    own += _of_the_base(own, space.base, preset)
    settings = {task: {run.setting for run in own if run.task == task} for task in TASKS}
    by_seed = {seed: _scores_of(own, seed, preset, settings) for seed in {run.seed for run in own}}
    most = max(map(len, by_seed.values()), default=0)
    tables = [by_seed[seed] for seed in sorted(by_seed) if 2 * len(by_seed[seed]) >= most > 0]
    found = {
        name: np.array([table[name] for table in tables])
        for name in dict.fromkeys(run.rule for run in own)
        if tables and all(name in table for table in tables)
    }
    names = tuple(n for n in found if n not in (REFERENCE, space.base) and _known(space, n))
    used = {*names, space.base, *({REFERENCE} & found.keys())}
    left_out = {
        name: "not a rule of the library" if name in found else _lacks(own, name, settings)
        for name in sorted({REFERENCE, *(run.rule for run in own)} - used)
    }
    if REFERENCE in left_out or len(names) < FEWEST:
        needs = f"expected {FEWEST} or more for a decile, and {REFERENCE}, over which margins are taken"
        lines = [f"{path}, preset {preset}: {len(names)} rules with all scores; {needs}"]
        raise UserError("\n  ".join([*lines, *(f"{name}: {why}" for name, why in left_out.items())]))
    base = found[space.base].mean(0) if space.base in found else None
    scores = np.array([found[name] for name in names])
    return Recorded(names, scores, found[REFERENCE].mean(0), base, preset, left_out)


def of_history(space: Space, name: str) -> Recorded:
    """A table of the built-in history: the rules that it has and the library knows, with one seed."""
    tables = {table.name: table for table in builtin_history()}
    if name not in tables:
        raise unknown("history table", name, tables)
    rows = {
        resolve_history_name(row.model): [row.scores.get(task) for task in TASKS] for row in tables[name].rows
    }
    found = {rule: np.array(row) for rule, row in rows.items() if rule and None not in row}
    names = tuple(rule for rule in found if rule not in (REFERENCE, space.base))
    if REFERENCE not in found or len(names) < FEWEST:
        raise UserError(
            f"{name}: {len(names)} rules with all scores; expected {FEWEST} or more and {REFERENCE}"
        )
    scores = np.array([found[rule] for rule in names])[:, None]
    return Recorded(names, scores, found[REFERENCE], found.get(space.base), f"history, {name}", {})


def _current(runs: list[RunRecord]) -> list[RunRecord]:
    """Of each rule the text that was trained last."""
    last = {run.rule: run.rule_hash for run in sorted(runs, key=lambda run: run.finished_at)}
    return [run for run in runs if run.rule_hash == last[run.rule]]


def _of_the_base(runs: list[RunRecord], base: str, preset: str) -> list[RunRecord]:
    """The base's runs as those of the rules that compute what it computes, where these were not trained:
    what changes the state alone shows nothing in a single chunk."""
    from archer.cycle.knowledge import stand_ins
    from archer.judge.reach import one_function_in_one_chunk
    from archer.rules import rule_names

    if preset not in PRESETS:
        return []
    one_chunk = {s.name for s in PRESETS[preset].settings if s.input_length <= PRESETS[preset].chunk_size}
    found: list[RunRecord] = []
    for name in {run.rule for run in runs} & set(rule_names()) - {base}:
        own = [run for run in runs if run.rule == name]
        if one_function_in_one_chunk(name):
            exact = frozenset(one_chunk - {run.setting for run in own})
            seeds = {run.seed for run in own}
            same = (run for run in runs if run.seed in seeds)
            found += stand_ins(same, name, own[0].rule_hash, base, exact)
    return found


def _scores_of(
    runs: list[RunRecord], seed: int, preset: str, settings: dict[str, set[str]]
) -> dict[str, list[float]]:
    """With one seed: the rules with all six scores, each over all settings of its task."""
    from archer.ledger.summary import score_table

    rows = {
        row.rule: [row.scores[task] for task in TASKS]
        for row in score_table([run for run in runs if run.seed == seed], preset, settings=settings)
    }
    return {rule: [x for x in scores if x is not None] for rule, scores in rows.items() if None not in scores}


def _lacks(runs: list[RunRecord], rule: str, settings: dict[str, set[str]]) -> str:
    """What a rule has no finished run of, in words."""
    done = {run.setting for run in runs if run.rule == rule and run.status == "finished"}
    tasks = [task for task in TASKS if not settings[task] or settings[task] - done]
    return f"no score on {', '.join(tasks)}" if tasks else "not with every seed that most rules have"


def landscape_of(space: Space, table: Recorded, repeat: int, informed: bool = False) -> Landscape:
    """A recorded table as one repeat sees it: four fifths of the rules, noise from the seeds."""
    generator = np.random.default_rng([repeat, 23])
    count = len(table.names)
    kept = np.sort(generator.permutation(count)[: round(count * KEPT)])
    seeds = table.scores.shape[1]
    drawn = generator.integers(seeds, size=(len(kept), seeds))
    measured = np.take_along_axis(table.scores[kept], drawn[:, :, None], 1).mean(1)
    names = [table.names[index] for index in kept]
    base = () if table.base_scores is None else ((space.composition(space.base), table.base_scores),)
    return Landscape(
        tuple(space.composition(name) for name in names),
        tuple(space.rules[name].parent or space.base for name in names),
        table.scores[kept].mean(1),
        measured,
        space.composition(REFERENCE),
        table.reference_scores,
        base,
        PRESETS.get(table.preset),
        informed,
    )


def _known(space: Space, name: str) -> bool:
    if name not in space.rules and "+" in name:
        from archer.research.rule_text import read_rule
        from archer.rules import get_rule

        space.rules[name] = read_rule(get_rule(name).source, name)
    return name in space.rules


def guided(space: Space, land: Landscape, seed: int) -> int:
    """How many candidates the researcher takes to the first of the best decile."""
    context = _start(land, seed)
    past = points_of(context, space)
    share = {task: reached(context, task) if land.preset else {} for task in TASKS}
    left, taken = list(range(len(land.compositions))), []
    while left:
        seen = (*land.known, *((land.compositions[i], land.measured[i]) for i in taken))
        surrogates: dict[str, TaskSurrogate] = {}
        for column, task in enumerate(TASKS):
            own = tuple(Point(one, context.preset, float(scores[column])) for one, scores in seen)
            surrogates[task] = fit((*past[task], *own), share[task])
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


def _start(land: Landscape, seed: int) -> Context:
    """What the researcher knows before the first candidate."""
    scores = zip(TASKS, map(float, land.reference_scores), strict=True)
    measured = tuple(Measurement(REFERENCE, task, "bench", score) for task, score in scores)
    context = Context({}, _history() if land.informed else (), measured, preset="bench", seed=seed)
    if land.preset is None:
        return context
    return replace(context, settings=land.preset.settings, chunk_size=land.preset.chunk_size)


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
    parser.add_argument("--history", help="a table of the built-in history instead of runs")
    parser.add_argument("--preset", help="which preset of the export; the most frequent one if left out")
    parser.add_argument(
        "--informed", action="store_true", help="with --runs: the researcher knows the built-in history"
    )
    parser.add_argument("--without", nargs="*", default=[], help="with --runs: rules to leave out")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--pool", type=int, default=300, help="candidates in the synthetic pool")
    options = parser.parse_args()
    if (options.informed or options.without) and not options.runs:
        parser.error("--informed and --without are for --runs: a history table is what is looked for")
    if min(options.repeats, options.pool) < 1:
        parser.error("--repeats and --pool: expected 1 or more")
    started = time.perf_counter()
    space = Space(library_sources())
    more: dict[str, object] = {"landscape": "synthetic, effects resampled from the history"}
    if options.runs or options.history:
        table = (
            recorded(space, options.runs, options.preset, options.without)
            if options.runs
            else of_history(space, options.history)
        )
        lands = [landscape_of(space, table, r, options.informed) for r in range(options.repeats)]
        more = described(table, str(options.runs or options.history), lands[0])
    else:
        changes = list(space.changes(PARENTS))
        chosen = np.random.default_rng(0).permutation(len(changes))[: options.pool]
        pool = tuple((changes[i].composition, changes[i].parent) for i in sorted(chosen))
        lands = [synthetic(space, pool, seed) for seed in range(options.repeats)]
    ours = np.array([guided(space, land, seed) for seed, land in enumerate(lands)], dtype=float)
    luck = np.array([random_draws(land, seed) for seed, land in enumerate(lands)], dtype=float)
    took = {
        "seconds": round(time.perf_counter() - started, 1),
        "machine": platform.machine(),
    }
    print(json.dumps(more | compared(lands, ours, luck) | took))


def described(table: Recorded, path: str, land: Landscape) -> dict[str, object]:
    """What was recorded, and how finely it can tell a good search from chance."""
    best = best_decile(table.scores.mean(1), table.reference_scores)
    pool, hits = len(land.compositions), int(land.best.sum())
    fewer, more = (pool + 1) / (hits + 2), (pool + 1) / max(hits, 1)
    return {
        "landscape": path,
        "preset": table.preset,
        "rules": len(table.names),
        "seeds": table.scores.shape[1],
        "best_rules": [name for name, good in zip(table.names, best, strict=True) if good],
        "decile_stability": table.stability,
        "left_out": table.left_out,
        "resolution": f"{pool} rules in a repeat, {hits} of them in the best decile: random order needs "
        f"{(pool + 1) / (hits + 1):.1f} on average, no search fewer than 1; with one more or one fewer in "
        f"the decile random would need {fewer:.1f} or {more:.1f}",
    }


def compared(
    lands: list[Landscape], ours: NDArray[np.floating], luck: NDArray[np.floating]
) -> dict[str, object]:
    """Candidates that the researcher took, [repeats], beside those of a random order."""
    theory = [(len(land.compositions) + 1) / (int(land.best.sum()) + 1) for land in lands]
    return {
        "repeats": len(lands),
        "pool": len(lands[0].compositions),
        "candidates_to_best_decile": {"researcher": ours.mean(), "random": luck.mean()},
        "median": {"researcher": float(np.median(ours)), "random": float(np.median(luck))},
        "interval_researcher": interval(ours),
        "interval_random": interval(luck),
        "fewer_than_random": float((luck - ours).mean()),
        "interval_fewer_than_random": interval(luck - ours),
        "random_in_theory": float(np.mean(theory)),
        "better_than_chance": interval(luck - ours)[0] > 0,
    }


if __name__ == "__main__":
    exit_plainly(main)
