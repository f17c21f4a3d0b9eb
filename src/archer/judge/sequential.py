"""Seeds where the verdict is open, and no more: looks at fixed numbers of seeds with the error rate kept.

Alpha is spent linearly in the number of seeds (Kim and DeMets 1987, doi:10.1093/biomet/74.1.149) over a fixed
list of looks: at the look with n_k seeds, alpha (n_k - n_(k-1)) / n_K. The errors of the looks are added
(Bonferroni), so the total stays below alpha whatever they have in common. A decided task keeps its word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from archer.judge.comparison import compare
from archer.judge.errors import JudgeError
from archer.judge.noise import NoiseFloor
from archer.ledger.records import TASKS, Comparison, RunRecord, TaskComparison

Measure = Callable[[tuple[int, ...], tuple[str, ...]], Sequence[RunRecord] | None]
"""Trains both rules with these seeds on these tasks, returns the new runs; None: the budget is spent."""


@dataclass(frozen=True)
class UntilDecided:
    """The plan, fixed before the first run: after how many seeds to look, the error rate over all looks."""

    looks: tuple[int, ...] = (1, 2, 3, 5, 8)
    level: float = 0.95
    margin: float = 0.01

    def __post_init__(self) -> None:
        rising = all(first < second for first, second in zip(self.looks, self.looks[1:], strict=False))
        if not self.looks or self.looks[0] < 1 or not rising:
            raise JudgeError(
                f"Looks must be rising numbers of seeds such as (1, 2, 3, 5, 8); got {self.looks}."
            )

    def alpha(self, look: int) -> float:
        """What look number `look` (from 0) may spend of 1 - level."""
        before = self.looks[look - 1] if look else 0
        return (1 - self.level) * (self.looks[look] - before) / self.looks[-1]


@dataclass(frozen=True)
class Sequential:
    """Where a sequential comparison stands after its latest look.

    decided: the tasks' words so far, each from the look in which it fell. stopped: why no more is measured;
    "" while it goes on. next_seeds, next_tasks: what to train next.
    """

    policy: UntilDecided
    looks: int = 0
    comparison: Comparison | None = None
    decided: Mapping[str, TaskComparison] | None = None
    stopped: Literal["", "decided", "looks used up", "budget ended"] = ""
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

    Only the planned seeds up to this look count, so that runs which happen to exist do not add looks.
    """
    if state.stopped:
        raise JudgeError(f"This comparison has stopped ({state.stopped}); begin a new one.")
    policy, planned = state.policy, _planned(state.policy, seeds)
    level = 1 - policy.alpha(state.looks)
    comparison = compare(
        runs, candidate, baseline, preset=preset, exact_settings=exact_settings, margin=policy.margin,
        level=level, noise=noise, settled=state.decided, seeds=planned[: policy.looks[state.looks]],
    )  # fmt: skip
    decided = {task.task: task for task in comparison.tasks if task.word != "undecided"}
    open_tasks = tuple(task for task in TASKS if task not in decided)
    done = state.looks + 1
    if not open_tasks:
        return Sequential(policy, done, comparison, decided, "decided", (), ())
    if done == len(policy.looks):
        return Sequential(policy, done, comparison, decided, "looks used up", (), open_tasks)
    following = planned[policy.looks[done - 1] : policy.looks[done]]
    return Sequential(policy, done, comparison, decided, "", following, open_tasks)


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
    """Measure, look, and measure again where it is open, until decided or the looks or the budget end."""
    policy = policy or UntilDecided()
    state, gathered = begin(policy, seeds), list(runs)
    planned = _planned(policy, seeds)
    while not state.stopped:
        new = measure(state.next_seeds, state.next_tasks)
        if new is None:
            return Sequential(policy, state.looks, state.comparison, state.decided, "budget ended")
        gathered += new
        state = look(
            state, gathered, candidate, baseline, preset=preset, exact_settings=exact_settings, noise=noise,
            seeds=planned,
        )  # fmt: skip
    return state


def _planned(policy: UntilDecided, seeds: Iterable[int]) -> tuple[int, ...]:
    chosen = tuple(seeds) or tuple(range(policy.looks[-1]))
    if len(set(chosen)) < policy.looks[-1] or len(set(chosen)) != len(chosen):
        raise JudgeError(f"The last look needs {policy.looks[-1]} different seeds; got {chosen}.")
    return chosen


@dataclass(frozen=True)
class Confirmation:
    """Whether a winner won again with seeds that had no part in choosing it.

    status: "confirmed" (better on all six again), "not confirmed", or "needs fresh seeds". seeds: the fresh
    ones that were used, or that should be trained. comparison: of the fresh seeds alone.
    """

    status: Literal["confirmed", "not confirmed", "needs fresh seeds"]
    seeds: tuple[int, ...]
    comparison: Comparison | None


def confirm(
    runs: Sequence[RunRecord],
    candidate: str,
    baseline: str,
    *,
    preset: str,
    seen_seeds: Iterable[int],
    fresh: int = 3,
    exact_settings: Iterable[str] = frozenset(),
    margin: float = 0.01,
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
    return Confirmation("confirmed" if comparison.beats_on_all else "not confirmed", both, comparison)
