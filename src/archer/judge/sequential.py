"""Seeds where the verdict is open, and no more: looks at fixed numbers of seeds with the error rate kept.

Alpha is spent linearly in the number of seeds (Kim and DeMets 1987, doi:10.1093/biomet/74.1.149) over a fixed
list of looks: at the look with n_k seeds, alpha (n_k - n_(k-1)) / n_K. The errors of the looks are added
(Bonferroni), so the total stays below alpha whatever they have in common. A decided task keeps its word.
Several pairs of rules may be decided together: each is a comparison of its own, and all share the looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from archer.judge.ceiling import MARGIN, SURE_SEEDS
from archer.judge.comparison import compare
from archer.judge.errors import JudgeError
from archer.judge.noise import NoiseFloor
from archer.ledger.records import TASKS, Comparison, Look, RunRecord, TaskComparison

MOST_SEEDS = 8
"""Where adding seeds ends unless another number is given."""

INTERVAL_SPENDING = 0.75
"""Stopping where it looks good makes plain 95% intervals hold the truth less often, down to 92%. With this
share of their error rate they hold it in 93 to 97% of all comparisons, as tests/judge/test_truth.py shows."""

Wanted = Mapping[str, tuple[str, ...]]
"""Rules to the tasks in which they are to be trained."""

Measure = Callable[[tuple[int, ...], tuple[str, ...]], Sequence[RunRecord] | None]
"""Trains both rules with these seeds on these tasks, returns the new runs; None: the budget is spent."""

MeasureAll = Callable[[tuple[int, ...], Wanted], Sequence[RunRecord] | None]
"""Trains these rules with these seeds, each on its tasks; returns the new runs; None: the budget is spent."""


@dataclass(frozen=True)
class UntilDecided:
    """The plan, fixed before the first run: after how many seeds to look, the error rate over all looks."""

    looks: tuple[int, ...] = (1, 2, 3, 5, MOST_SEEDS)
    level: float = 0.95
    margin: float = MARGIN

    def __post_init__(self) -> None:
        rising = all(first < second for first, second in zip(self.looks, self.looks[1:], strict=False))
        if not self.looks or self.looks[0] < 1 or not rising:
            raise JudgeError(
                f"Looks must be rising numbers of seeds such as (1, 2, 3, 5, 8); got {self.looks}."
            )

    @classmethod
    def up_to(cls, most: int) -> UntilDecided:
        """The plan that ends with `most` seeds: looks after 1, 2, 3, 5, 8, 13, … and `most` itself."""
        looks = [1, 2]
        while looks[-1] < most:
            looks.append(looks[-1] + looks[-2])
        return cls((*(seeds for seeds in looks if seeds < most), most))

    def alpha(self, look: int) -> float:
        """What look number `look` (from 0) may spend of 1 - level."""
        before = self.looks[look - 1] if look else 0
        return (1 - self.level) * (self.looks[look] - before) / self.looks[-1]

    @property
    def interval_level(self) -> float:
        """The level at which each look's intervals are taken, so that at the end they hold `level`."""
        return 1 - INTERVAL_SPENDING * (1 - self.level)

    @property
    def method(self) -> str:
        """The plan in words, for the record."""
        looks = ", ".join(map(str, self.looks))
        return (
            f"seeds are added until decided, looks planned after {looks} seeds; of the error rate "
            f"{1 - self.level:.3g} each look spends its share of the seeds (Kim and DeMets 1987), the shares "
            f"are added (Bonferroni), p-values are adjusted for tasks and looks; intervals are taken at "
            f"{self.interval_level:.2%}, which holds {self.level:.0%} under stopping; where both rules lie "
            f"within {self.margin:g} of 1 nothing can be better by more, and they are called the same after "
            f"{SURE_SEEDS} seeds{'; no seed is added for that' if self.leaves_the_ceiling else ''}"
        )

    @property
    def leaves_the_ceiling(self) -> bool:
        """Whether the plan ends before two rules at the ceiling could be called the same: then no seed is
        added there, for nothing can be better either."""
        return self.looks[-1] < SURE_SEEDS


@dataclass(frozen=True)
class Pair:
    """Two rules to compare. exact_settings: where verification found them to be one function."""

    candidate: str
    baseline: str
    exact_settings: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sequential:
    """Where a sequential comparison stands after its latest look.

    settled: the tasks that are trained no further, each as the look left it in which that was found: those
    decided, and those left at the ceiling. stopped: why no more is measured; "" while it goes on; "no score"
    where something open has a failed cell, which no further seed can mend, "no room" where all that is open
    lies at the ceiling. next_seeds, next_tasks: what to train next.
    """

    policy: UntilDecided
    looks: int = 0
    comparison: Comparison | None = None
    settled: Mapping[str, TaskComparison] | None = None
    stopped: Literal["", "decided", "no score", "no room", "looks used up", "budget ended"] = ""
    next_seeds: tuple[int, ...] = ()
    next_tasks: tuple[str, ...] = TASKS


def begin(policy: UntilDecided, seeds: Iterable[int] = ()) -> Sequential:
    """Before the first look. seeds: those to use, in order (0, 1, 2, … when left out)."""
    return Sequential(policy, next_seeds=_planned(policy, seeds)[: policy.looks[0]])


def look(
    state: Sequential,
    runs: Sequence[RunRecord],
    candidate: str,
    baseline: str,
    *,
    preset: str,
    exact_settings: Iterable[str] = frozenset(),
    noise: Mapping[str, NoiseFloor] | None = None,
    seeds: Iterable[int] = (),
) -> Sequential:
    """Judge all runs so far with what this look may spend, and say what to train next.

    Only the planned seeds up to this look count, so that runs which happen to exist do not add looks. The
    adjusted p-values of the comparison are adjusted for the looks too: a word falls at 1 - level.
    """
    if state.stopped:
        raise JudgeError(f"This comparison has stopped ({state.stopped}); begin a new one.")
    policy, planned = state.policy, _planned(state.policy, seeds)
    alpha, count = policy.alpha(state.looks), policy.looks[state.looks]
    comparison = compare(
        runs, candidate, baseline, preset=preset, exact_settings=exact_settings, margin=policy.margin,
        level=policy.interval_level, alpha=alpha, noise=noise, settled=state.settled, seeds=planned[:count],
    )  # fmt: skip
    before = state.settled or {}
    decided = tuple(t.task for t in comparison.tasks if t.word != "undecided" and t.task not in before)
    taken = Look(count, alpha, state.next_tasks, decided)
    comparison = _over_looks(comparison, before, alpha / (1 - policy.level), state, taken)
    settled = {task.task: task for task in comparison.tasks if _is_settled(task, policy)}
    unsettled = [task for task in comparison.tasks if task.task not in settled]
    open_tasks = tuple(task.task for task in unsettled if task.difference is not None)
    done = replace(
        state, looks=state.looks + 1, comparison=comparison, settled=settled, next_seeds=(),
        next_tasks=open_tasks,
    )  # fmt: skip
    if not open_tasks:
        full = any(task.word == "undecided" for task in settled.values())
        return replace(done, stopped="no score" if unsettled else "no room" if full else "decided")
    if done.looks == len(policy.looks):
        return replace(done, stopped="looks used up")
    return replace(done, next_seeds=planned[count : policy.looks[done.looks]])


def _is_settled(task: TaskComparison, policy: UntilDecided) -> bool:
    """Whether no seed is added any more: it is decided, or at the ceiling and the plan ends too soon."""
    return task.word != "undecided" or (task.no_room == "both" and policy.leaves_the_ceiling)


def _over_looks(
    comparison: Comparison, before: Mapping[str, TaskComparison], share: float, state: Sequential, taken: Look
) -> Comparison:
    """p-values that may be held against the whole error rate, of which this look spends `share`."""

    def adjusted(task: TaskComparison) -> TaskComparison:
        if task.task in before or task.p_adjusted is None:
            return task
        return replace(task, p_adjusted=min(1.0, task.p_adjusted / share))

    earlier = state.comparison.looks if state.comparison else ()
    return replace(
        comparison, tasks=tuple(map(adjusted, comparison.tasks)), mean=adjusted(comparison.mean),
        looks=(*earlier, taken), method=state.policy.method,
    )  # fmt: skip


def decide_together(
    measure: MeasureAll,
    pairs: Sequence[Pair],
    *,
    preset: str,
    policy: UntilDecided | None = None,
    noise: Mapping[str, NoiseFloor] | None = None,
    seeds: Iterable[int] = (),
    runs: Sequence[RunRecord] = (),
) -> tuple[Sequential, ...]:
    """Measure, look, and measure again what is open, until every pair is decided or the looks or the budget
    end. A rule is trained on the tasks that are open in any of its pairs.
    """
    policy = policy or UntilDecided()
    planned, gathered = _planned(policy, seeds), list(runs)
    states = [begin(policy, planned) for _ in pairs]
    while any(not state.stopped for state in states):
        following = next(state.next_seeds for state in states if not state.stopped)
        new = measure(following, _wanted(pairs, states))
        if new is None:
            return tuple(
                state if state.stopped else replace(state, stopped="budget ended") for state in states
            )
        gathered += new
        states = [
            state
            if state.stopped
            else look(
                state, gathered, pair.candidate, pair.baseline, preset=preset,
                exact_settings=pair.exact_settings, noise=noise, seeds=planned,
            )
            for pair, state in zip(pairs, states, strict=True)
        ]  # fmt: skip
    return tuple(states)


def _wanted(pairs: Sequence[Pair], states: Sequence[Sequential]) -> Wanted:
    """Rules to their open tasks, in the tasks' order."""
    found: dict[str, set[str]] = {}
    for pair, state in zip(pairs, states, strict=True):
        if not state.stopped:
            for rule in (pair.candidate, pair.baseline):
                found.setdefault(rule, set()).update(state.next_tasks)
    return {rule: tuple(task for task in TASKS if task in tasks) for rule, tasks in found.items()}


def decide_sequentially(
    measure: Measure,
    candidate: str,
    baseline: str,
    *,
    preset: str,
    policy: UntilDecided | None = None,
    exact_settings: Iterable[str] = frozenset(),
    noise: Mapping[str, NoiseFloor] | None = None,
    seeds: Iterable[int] = (),
    runs: Sequence[RunRecord] = (),
) -> Sequential:
    """`decide_together` for one pair."""
    pair = Pair(candidate, baseline, frozenset(exact_settings))
    (found,) = decide_together(
        lambda following, wanted: measure(following, wanted[candidate]), [pair], preset=preset, policy=policy,
        noise=noise, seeds=seeds, runs=runs,
    )  # fmt: skip
    return found


def _planned(policy: UntilDecided, seeds: Iterable[int]) -> tuple[int, ...]:
    chosen = tuple(seeds) or tuple(range(policy.looks[-1]))
    if len(set(chosen)) < policy.looks[-1] or len(set(chosen)) != len(chosen):
        raise JudgeError(f"The last look needs {policy.looks[-1]} different seeds; got {chosen}.")
    return chosen


@dataclass(frozen=True)
class Confirmation:
    """Whether a winner won again with seeds that had no part in choosing it.

    status: "confirmed" (its claim holds again), "not confirmed", or "needs fresh seeds". seeds: the fresh
    ones that were used, or that should be trained. comparison: of the fresh seeds alone.
    """

    status: Literal["confirmed", "not confirmed", "needs fresh seeds"]
    seeds: tuple[int, ...]
    comparison: Comparison | None


Claim = Literal["all six", "mean"]
"""What a rule may win against another: every task, or the mean over them."""


def claim_of(comparison: Comparison) -> Claim | None:
    """What the candidate won by these runs, and what fresh seeds must therefore confirm."""
    if comparison.beats_on_all:
        return "all six"
    return "mean" if comparison.mean.word == "better" else None


def confirm(
    runs: Sequence[RunRecord],
    candidate: str,
    baseline: str,
    *,
    preset: str,
    seen_seeds: Iterable[int],
    claim: Claim = "all six",
    fresh: int = 3,
    exact_settings: Iterable[str] = frozenset(),
    margin: float = MARGIN,
    level: float = 0.95,
    noise: Mapping[str, NoiseFloor] | None = None,
) -> Confirmation:
    """Judge a would-be winner, and the incumbent beside it, on seeds outside `seen_seeds` alone.

    The best of many is partly lucky, and so may its incumbent have been unlucky: only runs that chose nothing
    are evidence. Two independent passes bound the chance of a false winner by the product of their errors.
    """
    seen = frozenset(seen_seeds)
    used = [run for run in runs if run.preset == preset and run.seed not in seen]
    available = {rule: {run.seed for run in used if run.rule == rule} for rule in (candidate, baseline)}
    both = tuple(sorted(available[candidate] & available[baseline]))
    if len(both) < fresh:
        unused = (seed for seed in range(len(seen) + fresh + max((0, *seen, *both)) + 1) if seed not in seen)
        return Confirmation("needs fresh seeds", tuple(next(unused) for _ in range(fresh)), None)
    comparison = compare(
        runs, candidate, baseline, preset=preset, exact_settings=exact_settings, margin=margin, level=level,
        noise=noise, seeds=both,
    )  # fmt: skip
    held = comparison.beats_on_all if claim == "all six" else comparison.mean.word == "better"
    return Confirmation("confirmed" if held else "not confirmed", both, comparison)
