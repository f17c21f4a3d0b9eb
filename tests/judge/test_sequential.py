"""Seeds are added where it is open, and a winner is measured again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tests.judge.runs import make_runs, noisy

from archer.errors import UserError
from archer.judge import NoiseFloor, UntilDecided, begin, confirm, decide_sequentially, look
from archer.judge.simulate import Design, draw, judge_sequentially
from archer.ledger.records import TASKS, RunRecord

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


def test_real_runs_are_looked_at_exactly_as_simulated_ones() -> None:
    plain = [NoiseFloor(task, 0.02, 12, "made up", 1, 0.02, heterogeneity=6.0) for task in TASKS]
    policy = UntilDecided(looks=(1, 2, 4))
    drawn = draw(plain, Design("", (1,), 4), 0.06, replicates=12, generator=np.random.default_rng(11))
    words, seeds = judge_sequentially(drawn, policy)
    assert len(set(words.ravel().tolist())) > 1
    for index in range(12):
        floors = {
            task: NoiseFloor(
                task, 0, 12, "drawn", 1, float(np.sqrt(drawn.known[index, i] / 2)), heterogeneity=6.0
            )
            for i, task in enumerate(TASKS)
        }

        def score(rule: str, task: str, setting: str, seed: int, index: int = index) -> float:
            return 0.5 + (rule == "a") * float(drawn.values[seed, index, TASKS.index(task)])

        found = decide_sequentially(Lab(score).measure, "a", "b", preset="full", policy=policy, noise=floors)
        assert found.comparison is not None
        assert [one.word for one in found.comparison.tasks] == words[index].tolist()
        assert [one.seeds for one in found.comparison.tasks] == seeds[index].tolist()


def test_a_winner_needs_fresh_seeds() -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1, seeds=(0, 1))
    found = confirm(runs, "a", "b", preset="full", seen_seeds=(0, 1), noise=QUIET)
    assert (found.status, found.seeds) == ("needs fresh seeds", (2, 3, 4))


@pytest.mark.parametrize(("fresh_level", "status"), [(0.9, "confirmed"), (0.1, "not confirmed")])
def test_only_fresh_seeds_confirm(fresh_level: float, status: str) -> None:
    runs = make_runs("ab", lambda rule, *_: 0.9 if rule == "a" else 0.1, seeds=(0, 1))
    runs += make_runs("ab", lambda rule, *_: fresh_level if rule == "a" else 0.1, seeds=(2, 3, 4))
    found = confirm(runs, "a", "b", preset="full", seen_seeds=(0, 1), noise=QUIET)
    assert (found.status, found.seeds) == (status, (2, 3, 4))
    assert found.comparison is not None
    assert {one.seeds for one in found.comparison.tasks} == {3}
