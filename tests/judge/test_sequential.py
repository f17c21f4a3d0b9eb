"""Seeds are added where it is open, and a winner is measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.judge.runs import make_runs, noisy

from archer.errors import UserError
from archer.judge import NoiseFloor, UntilDecided, begin, compare, confirm, decide_sequentially, look
from archer.judge.sequential import Pair, Wanted, claim_of, decide_together
from archer.judge.simulate import Design, draw, judge_sequentially
from archer.judge.verdicts import confirmed
from archer.ledger.records import TASKS, ConfirmationRecord, RunRecord

QUIET = {task: NoiseFloor(task, 0.01, 20, "made up", 1, 0.01, heterogeneity=100.0) for task in TASKS}


class Lab:
    """Trains when asked and remembers what it was asked for."""

    def __init__(self, score: object, budget: int = 1000) -> None:
        self.score, self.budget = score, budget
        self.asked: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def measure(self, seeds: tuple[int, ...], tasks: tuple[str, ...]) -> Sequence[RunRecord] | None:
        if len(self.asked) == self.budget:
            return None
        self.asked.append((seeds, tasks))
        return make_runs("ab", self.score, seeds=seeds, tasks=tasks)  # type: ignore[arg-type]


def test_stops_at_once_where_it_is_clear() -> None:
    lab = Lab(lambda rule, *_: 0.9 if rule == "a" else 0.1)
    found = decide_sequentially(lab.measure, "a", "b", preset="full", noise=QUIET)
    assert found.stopped == "decided"
    assert lab.asked == [((0,), TASKS)]
    assert found.comparison is not None
    assert found.comparison.beats_on_all


def test_adds_seeds_only_to_open_tasks_until_the_looks_are_used_up() -> None:
    def score(rule: str, task: str, setting: str, seed: int) -> float:
        return 0.5 + (rule == "a") * (0.02 * (-1) ** seed if task == "Memorize" else 0.4)

    lab = Lab(score)
    found = decide_sequentially(lab.measure, "a", "b", preset="full", noise=QUIET)
    assert found.stopped == "looks used up"
    assert [tasks for _, tasks in lab.asked] == [TASKS, *[("Memorize",)] * 4]
    assert [seeds for seeds, _ in lab.asked] == [(0,), (1,), (2,), (3, 4), (5, 6, 7)]
    assert found.comparison is not None
    words = {one.task: (one.word, one.seeds) for one in found.comparison.tasks}
    assert words.pop("Memorize") == ("undecided", 8)
    assert set(words.values()) == {("better", 1)}


def test_stops_when_the_budget_ends() -> None:
    lab = Lab(noisy({"a": 0.5, "b": 0.5}, 0.01), budget=2)
    found = decide_sequentially(lab.measure, "a", "b", preset="full", noise=QUIET)
    assert (found.stopped, found.looks) == ("budget ended", 2)
    assert found.comparison is not None


def test_runs_that_happen_to_exist_add_no_looks() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.55 if rule == "a" else 0.5, seeds=range(8))
    state = look(begin(UntilDecided()), runs, "a", "b", preset="full", noise=QUIET)
    assert state.comparison is not None
    assert {one.seeds for one in state.comparison.tasks} == {1}


def test_alpha_is_spent_once() -> None:
    policy = UntilDecided(looks=(1, 2, 3, 5, 8))
    assert sum(policy.alpha(index) for index in range(5)) == pytest.approx(0.05)
    assert policy.alpha(0) == pytest.approx(0.05 / 8)
    assert policy.alpha(4) == pytest.approx(0.05 * 3 / 8)


def test_a_stopped_comparison_cannot_go_on() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1)
    state = look(begin(UntilDecided()), runs, "a", "b", preset="full", noise=QUIET)
    with pytest.raises(UserError, match="stopped"):
        look(state, runs, "a", "b", preset="full", noise=QUIET)


@pytest.mark.parametrize("looks", [(), (0, 1), (2, 2), (3, 1)])
def test_impossible_plans_are_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="rising"):
        UntilDecided(looks=looks)


def test_too_few_planned_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="8 different seeds"):
        begin(UntilDecided(), seeds=(1, 2, 3))


@pytest.mark.parametrize(
    ("levels", "truth", "sd"),
    [
        (None, [0.06] * 6, [0.02] * 6),
        ([0.998] * 3 + [0.9] * 3, [-0.005] * 3 + [-0.03] * 3, [3e-4] + [4e-3] * 5),
    ],
)
def test_real_runs_are_looked_at_exactly_as_simulated_ones(
    levels: list[float] | None, truth: list[float], sd: list[float]
) -> None:
    """With levels: three tasks near the ceiling; one lies at it with every seed, two with some."""
    plain = [NoiseFloor(t, s, 12, "made up", 1, s, heterogeneity=6.0) for t, s in zip(TASKS, sd, strict=True)]
    policy, random = UntilDecided(looks=(1, 2, 4)), np.random.default_rng(11)
    drawn = draw(plain, Design("", (1,), 4), truth, replicates=40, generator=random, levels=levels)
    stopped = judge_sequentially(drawn, policy)
    words, seeds = stopped.words, stopped.seeds
    assert len(set(words.ravel().tolist())) > 1
    assert levels is None or 0.1 < stopped.closed[:, :3].mean() < 0.9
    for index in range(40):
        floors = {
            task: NoiseFloor(
                task, 0, 12, "drawn", 1, float(np.sqrt(drawn.known[index, i] / 2)), heterogeneity=6.0
            )
            for i, task in enumerate(TASKS)
        }

        def score(rule: str, task: str, setting: str, seed: int, index: int = index) -> float:
            where = seed, index, TASKS.index(task)
            if drawn.scores is not None:
                return float(drawn.scores["ab".index(rule)][where])
            return 0.5 + (rule == "a") * float(drawn.values[where])

        found = decide_sequentially(Lab(score).measure, "a", "b", preset="full", policy=policy, noise=floors)
        assert found.comparison is not None
        assert [one.word for one in found.comparison.tasks] == words[index].tolist()
        assert [one.seeds for one in found.comparison.tasks] == seeds[index].tolist()
        assert [one.low for one in found.comparison.tasks] == pytest.approx(stopped.low[index].tolist())
        assert [one.high for one in found.comparison.tasks] == pytest.approx(stopped.high[index].tolist())


def test_a_winner_needs_fresh_seeds() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1, seeds=(0, 1))
    found = confirm(runs, "a", "b", preset="full", seen_seeds=(0, 1), noise=QUIET)
    assert (found.status, found.seeds) == ("needs fresh seeds", (2, 3, 4))
    runs += make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1, seeds=(2, 3))
    found = confirm(runs, "a", "b", preset="full", seen_seeds=(0, 1), noise=QUIET)
    assert (found.status, found.seeds) == ("needs fresh seeds", (2, 3, 4))  # two of three are too few


@pytest.mark.parametrize(("fresh_level", "status"), [(0.9, "confirmed"), (0.1, "not confirmed")])
def test_only_fresh_seeds_confirm(fresh_level: float, status: str) -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1, seeds=(0, 1))
    runs += make_runs("ab", lambda rule, *_: fresh_level if rule == "a" else 0.1, seeds=(2, 3, 4))
    found = confirm(runs, "a", "b", preset="full", seen_seeds=(0, 1), noise=QUIET)
    assert (found.status, found.seeds) == (status, (2, 3, 4))
    assert found.comparison is not None
    assert {one.seeds for one in found.comparison.tasks} == {3}


def test_only_fresh_seeds_confirm_a_better_mean() -> None:
    def score(rule: str, task: str, setting: str, seed: int) -> float:
        return 0.5 + (rule == "a") * (0.0 if task == "Memorize" else 0.3) + 0.001 * (seed % 2)

    runs = make_runs("ab", score, seeds=(0, 1, 2))
    assert claim_of(compare(runs, "a", "b", preset="full", noise=QUIET)) == "mean"
    assert claim_of(compare(runs, "b", "a", preset="full", noise=QUIET)) is None
    close = compare(make_runs("ab", lambda rule, *_: 0.5 + 0.001 * (rule == "a")), "a", "b", preset="full")
    assert (close.mean.difference, close.mean.word) == (pytest.approx(0.001), "undecided")
    assert claim_of(close) is None  # ahead, and not better
    found = confirm(runs, "a", "b", preset="full", seen_seeds=(0,), fresh=2, claim="mean", noise=QUIET)
    assert (found.status, found.seeds) == ("confirmed", (1, 2))
    assert (
        confirm(runs, "a", "b", preset="full", seen_seeds=(0,), fresh=2, noise=QUIET).status
        == "not confirmed"
    )


@pytest.mark.parametrize("won", [True, False])
@pytest.mark.parametrize("again", [True, False, None])
def test_a_confirmation_takes_a_win_away_and_gives_none(won: bool, again: bool | None) -> None:
    """A confirmed mean is no win on all six; a win that fresh seeds did not repeat is none."""
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1, seeds=(0, 1))
    first = replace(compare(runs, "a", "b", preset="full", noise=QUIET), beats_on_all=won)
    claim = "all six" if won else "mean"
    asked = None if again is None else ConfirmationRecord(claim, again, (2, 3), first.mean, first)
    assert confirmed(first, asked).beats_on_all == (won and again is not False)


def test_the_looks_are_on_the_record() -> None:
    def score(rule: str, task: str, setting: str, seed: int) -> float:
        return 0.5 + (rule == "a") * (0.02 * (-1) ** seed if task == "Memorize" else 0.4)

    found = decide_sequentially(
        Lab(score).measure, "a", "b", preset="full", noise=QUIET, policy=UntilDecided((1, 2))
    )
    assert found.comparison is not None
    first, second = found.comparison.looks
    assert (first.seeds, first.open, first.alpha) == (1, TASKS, pytest.approx(0.025))
    assert first.decided == tuple(task for task in TASKS if task != "Memorize")
    assert (second.seeds, second.open, second.decided) == (2, ("Memorize",), ())
    assert "after 1, 2 seeds" in found.comparison.method
    assert "Bonferroni" in found.comparison.method


def test_p_values_are_adjusted_for_the_looks() -> None:
    """A word falls where the adjusted p-value is at most 5%, whatever the look may spend."""
    drawn = np.random.default_rng(3).normal(0.035, 0.02, (8, 40))
    seen = set()
    for index in range(40):

        def score(rule: str, task: str, setting: str, seed: int, index: int = index) -> float:
            return 0.5 + (rule == "a") * float(drawn[seed, (index + TASKS.index(task)) % 40])

        found = decide_sequentially(Lab(score).measure, "a", "b", preset="full", noise=QUIET)
        assert found.comparison is not None
        for task in found.comparison.tasks:
            assert task.p_adjusted is not None
            assert (task.word == "better") == (task.p_adjusted <= 0.05), task
            seen.add((task.word, task.seeds))
    assert len(seen) > 4


def test_seeds_are_added_where_no_failed_run_forbids_a_score() -> None:
    def score(rule: str, task: str, setting: str, seed: int) -> float | None:
        if task == "Compress" and rule == "a":
            return None
        return 0.5 + (rule == "a") * (0.02 * (-1) ** seed if task == "Memorize" else 0.4)

    lab = Lab(score)
    found = decide_sequentially(
        lab.measure, "a", "b", preset="full", noise=QUIET, policy=UntilDecided((1, 2))
    )
    assert [tasks for _, tasks in lab.asked] == [TASKS, ("Memorize",)]
    assert found.stopped == "looks used up"
    hopeless = Lab(lambda rule, *_: None if rule == "a" else 0.5)
    stopped = decide_sequentially(hopeless.measure, "a", "b", preset="full", noise=QUIET)
    assert (stopped.stopped, len(hopeless.asked)) == ("no score", 1)


def test_pairs_share_their_looks_and_only_open_rules_are_trained() -> None:
    levels = {"a": 0.9, "c": 0.5, "b": 0.5}
    asked: list[tuple[tuple[int, ...], dict[str, tuple[str, ...]]]] = []

    def score(rule: str, task: str, setting: str, seed: int) -> float:
        wobble = 0.03 * (-1) ** seed if task in ("Memorize", "Compress") and rule == "c" else 0.0
        return levels[rule] + wobble + (0.4 if rule == "c" and not wobble else 0)

    def measure(seeds: tuple[int, ...], wanted: Wanted) -> Sequence[RunRecord]:
        asked.append((seeds, dict(wanted)))
        return [r for rule, tasks in wanted.items() for r in make_runs(rule, score, seeds=seeds, tasks=tasks)]

    pairs = [Pair("a", "b"), Pair("c", "b")]
    clear, open_pair = decide_together(
        measure, pairs, preset="full", noise=QUIET, policy=UntilDecided((1, 3))
    )
    assert (clear.stopped, clear.looks) == ("decided", 1)
    assert (open_pair.stopped, open_pair.looks) == ("looks used up", 2)
    some = ("Compress", "Memorize")
    assert asked == [((0,), dict.fromkeys("abc", TASKS)), ((1, 2), {"c": some, "b": some})]


@pytest.mark.parametrize(
    ("most", "looks"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 3, 4)), (13, (1, 2, 3, 5, 8, 13))]
)
def test_the_plan_ends_with_the_most_seeds(most: int, looks: tuple[int, ...]) -> None:
    assert UntilDecided.up_to(most).looks == looks
    assert UntilDecided.up_to(8) == UntilDecided()
