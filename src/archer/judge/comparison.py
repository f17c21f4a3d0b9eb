"""Two rules, task by task: the paired difference, its interval, its adjusted p-value and one word.

The settings of a preset are the benchmark itself, not a sample of one: the difference is about exactly these
settings, and what varies is the seed. So the seed is the unit: one number per seed, the mean over settings of
candidate minus baseline on the same data; nothing is assumed about how settings move together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from archer.errors import unknown
from archer.judge import statistics
from archer.judge.ceiling import MARGIN, SURE_SEEDS, headroom
from archer.judge.cells import Cell, Cells, name_cell
from archer.judge.errors import JudgeError
from archer.judge.noise import NoiseFloor, noise_floor, swing
from archer.judge.resample import DRAWS, percentile_interval, resampled_means
from archer.ledger.records import TASKS, Comparison, NoRoom, RunRecord, TaskComparison

MEAN = "Mean"

Interval = Literal["moderated", "resampled", "resampled over settings"]


@dataclass(frozen=True)
class Paired:
    """One task of two rules: `differences` per seed (mean over all settings), and what stands beside it.

    trained: settings that both were trained in; exact: settings in which they are one function. blocked: why
    there can be no difference (a failed or wholly missing cell); notes: what else the reader must see.
    cells: the differences [settings, seeds] behind it, exact settings as zeros. possible: the least and the
    most that the difference can be where the candidate or the baseline lies at the ceiling, else infinite.
    swings: how far the two move (`noise.swing`) in each setting in which they were trained. levels: candidate
    and baseline per seed (mean over all settings).
    """

    task: str
    differences: dict[int, float]
    candidate: float | None
    baseline: float | None
    trained: int
    exact: int
    blocked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cells: tuple[tuple[float, ...], ...] = ()
    possible: tuple[float, float] = statistics.ANYTHING
    swings: tuple[float, ...] = ()
    levels: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def settings(self) -> int:
        return self.trained + self.exact

    @property
    def identical(self) -> bool:
        """Equal by construction: there are settings, and in none of them do the two differ."""
        return self.exact > 0 and self.trained == 0

    @property
    def no_room(self) -> NoRoom:
        """Whether the baseline leaves no room above it, and the candidate none either."""
        low, high = map(math.isfinite, self.possible)
        return "" if not high else "both" if low else "above"

    @property
    def quiet(self) -> bool:
        """Without noise that could hide a difference: equal by construction, or both at the ceiling."""
        return self.identical or self.no_room == "both"

    @property
    def middle(self) -> float:
        """The mean difference over the seeds."""
        return float(np.mean(list(self.differences.values()))) if self.differences else 0.0


def compare(
    runs: Sequence[RunRecord],
    candidate: str,
    baseline: str,
    *,
    preset: str,
    exact_settings: Iterable[str] = frozenset(),
    margin: float = MARGIN,
    level: float = 0.95,
    alpha: float | None = None,
    seed: int = 0,
    noise: Mapping[str, NoiseFloor] | None = None,
    settled: Mapping[str, TaskComparison] | None = None,
    seeds: Iterable[int] | None = None,
    interval: Interval = "moderated",
) -> Comparison:
    """Candidate minus baseline on every task and for the mean, from all `runs` (other rules' are welcome).

    exact_settings: settings in which verification found the two to be one function: difference exactly zero.
    margin: differences smaller than this are equivalence ("same"); where both rules lie within it of 1, that
    takes no test but many seeds (`ceiling`). level: of the intervals. alpha: the error rate of the words over
    the six tasks, 1 - level if left out. noise: floors to moderate the variance with; learned from the other
    rules' runs and Archer's own file when left out; {} for none. settled: tasks that an earlier look settled,
    kept as they are.
    seeds: use these seeds alone. interval: of what kind low and high are (see `resample`; the words never
    change); seed: of the resampling. Raises UserError for a rule without runs.
    """
    if not (0 < level < 1 and 0 < margin < math.inf):
        raise JudgeError(f"level must lie between 0 and 1 and margin be positive; got {level} and {margin}.")
    alpha = 1 - level if alpha is None else alpha
    wanted = None if seeds is None else frozenset(seeds)
    used = [run for run in runs if run.preset == preset and (wanted is None or run.seed in wanted)]
    cells = Cells(used, preset)
    exact = frozenset(exact_settings)
    _require_rules(cells, candidate, baseline, exact)
    if noise is None:
        noise = noise_floor(runs, preset=preset, exclude=frozenset((candidate, baseline)))
    everything = candidate == baseline or _same_hash(cells, candidate, baseline)
    pairs = [pair_task(cells, candidate, baseline, task, exact, margin, everything) for task in TASKS]
    tasks = _judge_tasks(pairs, noise, margin, level, alpha, settled or {})
    mean = _judge_mean(pairs, noise, margin, level, alpha)
    if interval != "moderated":
        over_settings = interval == "resampled over settings"
        tasks, mean = _resample(pairs, tasks, mean, level, seed, over_settings, settled or {})
    beats = all(found.word == "better" for found in tasks)
    return Comparison(candidate, baseline, preset, tasks, mean, beats)


def pair_task(
    cells: Cells,
    candidate: str,
    baseline: str,
    task: str,
    exact: frozenset[str],
    margin: float = MARGIN,
    everything: bool = False,
) -> Paired:
    """Pair the two rules' cells of one task over settings and seeds."""
    settings = cells.settings(task, (candidate, baseline))
    equal = tuple(name for name in settings if everything or name in exact)
    trained = tuple(name for name in settings if name not in equal)
    seeds = sorted(cells.seeds(candidate, task) | cells.seeds(baseline, task))
    pairs = {
        (name, seed): _pair_cell(cells, candidate, baseline, (task, name, seed))
        for name in trained
        for seed in seeds
    }
    blocked, notes, complete = _sort_out(pairs, trained, seeds, task)
    if not settings:
        blocked = (f"no runs of {candidate} or {baseline} on {task}",)
    differences = {
        seed: sum(_gap(pairs[name, seed]) for name in trained) / len(settings)
        for seed in (complete if not blocked and settings else ())
    }
    counted = complete if trained else seeds
    shared = [_shared_score(cells, (candidate, baseline), task, name, counted or seeds) for name in equal]
    scores = [
        _rule_score(dict(zip(pairs, mine, strict=True)), trained, seeds, complete, shared)
        for mine in ([pair[0] for pair in pairs.values()], [pair[1] for pair in pairs.values()])
    ]
    known = [score for score in shared if score is not None]
    levels = {
        seed: _levels([pairs[name, seed] for name in trained], known)
        for seed in (differences if len(known) == len(shared) else ())
    }
    rows = [tuple(_gap(pairs[name, seed]) for seed in differences) for name in trained if differences]
    rows += [(0.0,) * len(differences) for _ in equal if differences]
    compared = [pairs[name, seed] for name in trained for seed in differences]
    ours, theirs = [cell.score for cell, _, _ in compared], [cell.score for _, cell, _ in compared]
    share = len(trained) / len(settings) if trained else 1.0
    return Paired(
        task,
        differences,
        scores[0],
        scores[1],
        len(trained),
        len(equal),
        tuple(blocked),
        tuple(notes),
        tuple(rows),
        (0.0 - headroom(ours, margin) * share, headroom(theirs, margin) * share),
        tuple(_swing([pairs[name, seed] for seed in differences]) for name in trained if differences),
        levels,
    )


def _levels(pairs: Sequence[tuple[Cell, Cell, bool]], shared: Sequence[float]) -> tuple[float, float]:
    """Candidate and baseline with one seed: the mean over all settings, those in which they are one, too."""
    ours, theirs = ([float(pair[rule].score) for pair in pairs] for rule in (0, 1))  # type: ignore[misc]
    return float(np.mean([*ours, *shared])), float(np.mean([*theirs, *shared]))


def _swing(pairs: Sequence[tuple[Cell, Cell, bool]]) -> float:
    """Of both rules at their levels, as a root mean square: the variances of the two add. At least that of
    the level between them, which is where both are if they are equal: of two equal rules one may have learned
    the task with these seeds and the other not, and neither end of the scale says how far that is."""
    levels = [float(np.mean([pair[rule].score for pair in pairs])) for rule in (0, 1)]  # type: ignore[misc]
    apart = math.sqrt(sum(swing(level) ** 2 for level in levels) / 2)
    return max(apart, swing(sum(levels) / 2))


def _pair_cell(
    cells: Cells, candidate: str, baseline: str, where: tuple[str, str, int]
) -> tuple[Cell, Cell, bool]:
    """Both cells on the grid points that both were trained at; True where the grids differed."""
    keys = (candidate, *where), (baseline, *where)
    grids = [cells.grid(key) for key in keys]
    common = grids[0] & grids[1] if all(grids) else grids[0] | grids[1]
    return cells.cell(keys[0], common), cells.cell(keys[1], common), all(grids) and grids[0] != grids[1]


def _seeds(found: Iterable[int]) -> str:
    """ "seed 3", or "seeds 1 to 4, 7"."""
    runs: list[list[int]] = []
    for seed in sorted(found):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"seed{'s' if len(words) > 1 or len(runs[0]) > 1 else ''} {', '.join(words)}"


def _sort_out(
    pairs: Mapping[tuple[str, int], tuple[Cell, Cell, bool]],
    trained: Sequence[str],
    seeds: Sequence[int],
    task: str,
) -> tuple[list[str], list[str], list[int]]:
    """What forbids a difference, what must be shown, and the seeds that are complete for both rules."""
    blocked: list[str] = []
    notes: list[str] = []
    absent = _absent_seeds(pairs)
    for rule in sorted({rule for rule, _ in absent}):
        notes.append(
            f"{rule} on {task}: {_seeds({seed for name, seed in absent if name == rule})} not trained"
        )
    for (_, _), (ours, theirs, uneven) in sorted(pairs.items()):
        for cell in (ours, theirs):
            if cell.state == "failed":
                blocked.append(f"{name_cell(cell.key)}: no score ({'; '.join(cell.failures)})")
            elif cell.state == "missing" and (cell.key[0], cell.key[3]) not in absent:
                why = "; ".join(cell.failures) or "not trained"
                notes.append(f"{name_cell(cell.key)}: {why}; the seed does not count")
            elif cell.failures:
                notes.append(
                    f"{name_cell(cell.key)}: {'; '.join(cell.failures)}; the best other grid point counts"
                )
        if uneven:
            notes.append(
                f"{name_cell(ours.key)}: the grids of the two rules differ; their common points count"
            )
    complete = [
        seed
        for seed in seeds
        if all(cell.state == "scored" for name in trained for cell in pairs[name, seed][:2])
    ]
    if trained and not complete and not blocked:
        blocked.append(f"no seed for which both rules have a score in every setting of {task}")
    return blocked, notes, complete


def _absent_seeds(pairs: Mapping[tuple[str, int], tuple[Cell, Cell, bool]]) -> set[tuple[str, int]]:
    """(rule, seed) for which the rule was trained in no setting at all: one note instead of many."""
    present = {
        (cell.key[0], cell.key[3])
        for pair in pairs.values()
        for cell in pair[:2]
        if cell.state != "missing" or cell.failures
    }
    every = {(cell.key[0], cell.key[3]) for pair in pairs.values() for cell in pair[:2]}
    return every - present


def _gap(pair: tuple[Cell, Cell, bool]) -> float:
    ours, theirs, _ = pair
    if ours.score is None or theirs.score is None:
        raise AssertionError("only complete seeds are subtracted")
    return ours.score - theirs.score


def _shared_score(
    cells: Cells, rules: Sequence[str], task: str, name: str, seeds: Sequence[int]
) -> float | None:
    """The score of one function in an exact setting, from whichever of the two was trained there."""
    scores = [cells.score(rule, task, name, seed) for rule in sorted(set(rules)) for seed in seeds]
    numbers = [score for score in scores if score is not None]
    return float(np.mean(numbers)) if numbers else None


def _rule_score(
    mine: Mapping[tuple[str, int], Cell],
    trained: Sequence[str],
    seeds: Sequence[int],
    complete: Sequence[int],
    shared: Sequence[float | None],
) -> float | None:
    """Mean over settings of one rule's mean over the seeds that count; None where any cell of it failed.

    The seeds that both rules have completely count; where there are none, those that this rule has.
    """
    scores = {where: cell.score for where, cell in mine.items() if cell.score is not None}
    own = [seed for seed in seeds if all((name, seed) in scores for name in trained)]
    counted = complete or own
    failed = any(cell.state == "failed" for cell in mine.values())
    if failed or None in shared or not counted:
        return None
    means = [float(np.mean([scores[name, seed] for seed in counted])) for name in trained]
    return float(np.mean([*means, *(score for score in shared if score is not None)]))


def _evidence(pair: Paired, noise: Mapping[str, NoiseFloor]) -> statistics.Evidence:
    floor = noise.get(pair.task)
    values = np.asarray(sorted(pair.differences.values()))
    variance = float(np.var(values, ddof=1)) if values.size > 1 else 0.0
    prior = floor.difference_variance(pair.trained, pair.settings, pair.swings) if floor else np.nan
    mean = float(values.mean()) if values.size else np.nan
    return statistics.evidence(mean, variance, values.size, prior, floor.weight() if floor else 0.0)


def _judge_tasks(
    pairs: Sequence[Paired],
    noise: Mapping[str, NoiseFloor],
    margin: float,
    level: float,
    alpha: float,
    settled: Mapping[str, TaskComparison],
) -> tuple[TaskComparison, ...]:
    """Six comparisons; Holm runs over all six, those settled before counting as rejected or not."""
    found = [_describe(pair, _evidence(pair, noise), level) for pair in pairs]
    raw = [_holm_input(settled.get(one.task), one.p_value) for one in found]
    adjusted = statistics.holm(raw)
    finished = []
    for pair, one, p_adjusted in zip(pairs, found, adjusted, strict=True):
        if pair.task in settled:
            finished.append(settled[pair.task])
        else:
            finished.append(
                _give_word(pair, one, float(p_adjusted), _evidence(pair, noise), margin, alpha, len(TASKS))
            )
    return tuple(finished)


def _holm_input(settled: TaskComparison | None, p_value: float | None) -> float:
    if settled is not None:
        return 0.0 if settled.word in ("better", "worse") else 1.0
    return np.nan if p_value is None else p_value


def _judge_mean(
    pairs: Sequence[Paired], noise: Mapping[str, NoiseFloor], margin: float, level: float, alpha: float
) -> TaskComparison:
    """The mean over the six tasks, over the seeds that all of them have; its p-value stands alone."""
    pair, given = _mean_of(pairs, noise)
    found = _describe(pair, given, level)
    p_value = np.nan if found.p_value is None else found.p_value
    return _give_word(pair, found, p_value, given, margin, alpha, 1)


def _mean_of(pairs: Sequence[Paired], noise: Mapping[str, NoiseFloor]) -> tuple[Paired, statistics.Evidence]:
    """The mean over the tasks per seed. Tasks at the ceiling enter with the mean of the seeds that they have:
    what their seeds differ by is below the margin, and no further seeds are trained there."""
    blocked = tuple(f"{pair.task}: {reason}" for pair in pairs for reason in pair.blocked)
    moving = [pair for pair in pairs if not pair.quiet]
    still = [pair for pair in pairs if pair.no_room == "both"]
    shared = [set(pair.differences) for pair in moving or still]
    common = set.intersection(*shared) if shared and not blocked else set()
    if shared and not common and not blocked:
        blocked = ("no seed that every task has",)
    fixed = sum(pair.middle for pair in still)
    differences = {
        seed: (fixed + sum(pair.differences[seed] for pair in moving)) / len(pairs) for seed in sorted(common)
    }
    lowest, highest = (sum(pair.possible[end] for pair in still) / len(pairs) for end in (0, 1))
    scores = [_over(pair, common) for pair in pairs]
    known = [score for score in scores if score is not None]
    ours, theirs = np.mean(known, axis=0).tolist() if len(known) == len(pairs) else (None, None)
    mean = Paired(
        MEAN,
        differences,
        ours,
        theirs,
        sum(pair.trained for pair in pairs),
        sum(pair.exact for pair in pairs),
        blocked,
        possible=(lowest, highest) if still and not moving else statistics.ANYTHING,
    )
    return mean, _mean_evidence(mean, moving, noise, len(pairs))


def _over(pair: Paired, common: Collection[int]) -> tuple[float, float] | None:
    """Candidate and baseline over these seeds, so that a mean's scores differ by its difference. All seeds
    where none are common, and where nothing moves; None where either has no score."""
    if pair.candidate is None or pair.baseline is None:
        return None
    levels = [pair.levels[seed] for seed in sorted(common) if seed in pair.levels]
    if pair.quiet or not levels:
        return pair.candidate, pair.baseline
    return tuple(np.mean(levels, axis=0).tolist())  # type: ignore[return-value]


def _mean_evidence(
    mean: Paired, moving: Sequence[Paired], noise: Mapping[str, NoiseFloor], tasks: int
) -> statistics.Evidence:
    """The known variances of the tasks added, their weights joined as Welch and Satterthwaite do."""
    values = np.asarray(list(mean.differences.values()))
    centre = float(values.mean()) if values.size else np.nan
    spread = float(np.var(values, ddof=1)) if values.size > 1 else 0.0
    floors = [(noise.get(pair.task), pair) for pair in moving]
    parts = [
        (floor.difference_variance(p.trained, p.settings, p.swings), floor.weight())
        for floor, p in floors
        if floor
    ]
    if len(parts) < len(moving) or not parts:
        return statistics.evidence(centre, spread, values.size, np.nan, 0.0)
    total = sum(variance for variance, _ in parts)
    weight = total**2 / sum(variance**2 / df for variance, df in parts) if total > 0 else 0.0
    return statistics.evidence(centre, spread, values.size, total / tasks**2, weight)


def _describe(pair: Paired, given: statistics.Evidence, level: float) -> TaskComparison:
    """Everything but the adjusted p-value and the word, which is "undecided" so far."""
    empty = TaskComparison(
        pair.task, pair.candidate, pair.baseline, None, None, None, None, None, "undecided",
        pair.settings, len(pair.differences), None, pair.exact, (*pair.blocked, *pair.notes), pair.no_room,
    )  # fmt: skip
    if pair.identical:
        return replace(empty, difference=0.0, low=0.0, high=0.0, p_value=1.0)
    if pair.blocked or not pair.differences:
        return empty
    if pair.no_room == "both":
        return replace(empty, difference=pair.middle, low=pair.possible[0], high=pair.possible[1])
    difference = float(given.difference)
    moderated = statistics.moderate(given)
    error = statistics.standard_error(given, moderated)
    if not np.isfinite(error):
        note = "one seed and no estimate of the noise: nothing can be concluded"
        return replace(empty, difference=difference, missing=(*empty.missing, note))
    low, high = statistics.interval(given.difference, error, moderated.degrees_of_freedom, level)
    p_value = statistics.two_sided_p(given.difference, error, moderated.degrees_of_freedom)
    low, high = statistics.within(low, high, pair.possible)
    return replace(empty, difference=difference, low=float(low), high=float(high), p_value=float(p_value))


def _give_word(
    pair: Paired,
    found: TaskComparison,
    p_adjusted: float,
    given: statistics.Evidence,
    margin: float,
    alpha: float,
    family: int,
) -> TaskComparison:
    if pair.identical:
        return replace(found, p_adjusted=1.0, word="same")
    if pair.no_room == "both":
        lacking = max(0, SURE_SEEDS - found.seeds)
        return replace(found, word="undecided" if lacking else "same", more_seeds=lacking or None)
    if found.p_value is None:
        extra = 1 if found.difference is not None else None
        return replace(found, more_seeds=extra)
    moderated = statistics.moderate(given)
    error = statistics.standard_error(given, moderated)
    equal = statistics.equivalence_p(given.difference, error, moderated.degrees_of_freedom, margin)
    adjusted = np.asarray(p_adjusted)
    word = str(statistics.words(given.difference, adjusted, equal, alpha, given.seeds, pair.possible))
    open_still = word == "undecided"
    extra = statistics.more_seeds(given, margin, alpha, family, pair.possible) if open_still else None
    return replace(found, p_adjusted=p_adjusted, word=word, more_seeds=extra)  # type: ignore[arg-type]


def _resample(
    pairs: Sequence[Paired],
    tasks: Sequence[TaskComparison],
    mean: TaskComparison,
    level: float,
    seed: int,
    over_settings: bool,
    settled: Mapping[str, TaskComparison],
) -> tuple[tuple[TaskComparison, ...], TaskComparison]:
    """The same comparisons with resampled intervals; None where a single value cannot be resampled."""
    draws: list[statistics.Array | None] = []
    finished = []
    for index, (pair, found) in enumerate(zip(pairs, tasks, strict=True)):
        means = _draws(pair, seed + index, over_settings)
        draws.append(means)
        low, high = (None, None) if means is None else percentile_interval(means, level)
        keep = pair.quiet or pair.task in settled
        finished.append(found if keep else replace(found, low=low, high=high))
    known = [means for means in draws if means is not None]
    if mean.difference is None or len(known) < len(pairs):
        return tuple(finished), replace(mean, low=None, high=None)
    low, high = percentile_interval(np.mean(known, axis=0), level)
    return tuple(finished), replace(mean, low=low, high=high)


def _draws(pair: Paired, seed: int, over_settings: bool) -> statistics.Array | None:
    if pair.quiet:
        return np.full(DRAWS, pair.middle)
    enough = len(pair.differences) > 1 or (over_settings and len(pair.cells) > 1)
    if not pair.cells or not enough:
        return None
    return resampled_means(pair.cells, seed, over_settings=over_settings)


def _same_hash(cells: Cells, candidate: str, baseline: str) -> bool:
    ours, theirs = cells.hashes.get(candidate), cells.hashes.get(baseline)
    return ours is not None and ours == theirs


def _require_rules(cells: Cells, candidate: str, baseline: str, exact: frozenset[str]) -> None:
    """Both rules need runs, unless the other was trained only in settings in which they are one function."""
    for rule, other in ((candidate, baseline), (baseline, candidate)):
        if rule in cells.rules:
            continue
        settings = {name for task in TASKS for name in cells.settings(task, (other,))}
        if not settings or settings - exact:
            raise unknown(f"rule with runs under preset {cells.preset!r}", rule, cells.rules)
