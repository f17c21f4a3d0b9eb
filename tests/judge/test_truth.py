"""Where the truth is known: verdicts are right as often as they say. Simulated, seeded, on arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.judge.runs import make_runs

from archer.judge import NoiseFloor, UntilDecided, compare, noise_floor, shipped_variance
from archer.judge.ceiling import FAILING, SURE_SEEDS
from archer.judge.cells import Cells
from archer.judge.history import SETTINGS
from archer.judge.simulate import (
    Design,
    Drawn,
    Stopped,
    ceiling,
    designs,
    draw,
    draw_unlike_normal,
    from_values,
    heavy_tails,
    judge,
    judge_sequentially,
    simulate,
    two_outcomes,
)
from archer.ledger import read_runs
from archer.ledger.records import TASKS, Comparison
from archer.rules import REFERENCE

SHIPPED = [shipped_variance()[task] for task in TASKS]
PLAIN = [NoiseFloor(task, 0.02, 12, "made up", 1, 0.02, heterogeneity=6.0) for task in TASKS]
RUNS = Path(__file__).parents[2] / "results" / "quick.csv"
"""Archer's own runs: three seeds of 29 rules on all six tasks."""
MEASURED = [noise_floor(read_runs(RUNS))[task] for task in TASKS]
SCORES = Cells(read_runs(RUNS), "quick")
LEVELS = [
    float(np.mean([cell.score or 0.0 for cell in SCORES.of(REFERENCE, task)] or [0.5])) for task in TASKS
]
"""The reference's scores there: on some tasks they lie at the ceiling."""

WORLDS = [
    pytest.param(SHIPPED, id="variance.json"),
    pytest.param(MEASURED, id="results/quick.csv"),
    pytest.param(PLAIN, id="0.02 everywhere"),
]
DESIGNS = [pytest.param(design, id=design.name) for design in designs(SETTINGS, TASKS)]
REPLICATES = 8000


def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("floors", WORLDS)
@pytest.mark.parametrize("design", DESIGNS)
def test_without_a_difference(floors: list[NoiseFloor], design: Design) -> None:
    judged = judge(simulate(floors, design, 0.0, replicates=REPLICATES, generator=random()))
    assert judged.any_rate("better") <= 0.05
    assert judged.any_rate("worse") <= 0.05
    assert judged.all_rate("better") <= 0.001
    coverage = judged.coverage(0.0)
    assert coverage.min() >= 0.93
    assert coverage.max() <= 0.97


def test_the_measured_world_rests_on_runs() -> None:
    assert sum("quick" in floor.source for floor in MEASURED) == 6
    assert all(floor.degrees_of_freedom >= 3 for floor in MEASURED if "quick" in floor.source)


@pytest.mark.parametrize("floors", WORLDS)
@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_hold_true_differences(floors: list[NoiseFloor], design: Design) -> None:
    truth = np.asarray([0.01, -0.03, 0.1, 0.0, 0.3, -0.2])
    judged = judge(simulate(floors, design, truth, replicates=REPLICATES, generator=random()))
    coverage = judged.coverage(truth)
    assert coverage.min() >= 0.93
    assert coverage.max() <= 0.97


def test_overconfident_noise_would_be_noticed() -> None:
    """The bounds above can fail: a floor trusted as if it were certain breaks them."""
    certain = [replace(floor, degrees_of_freedom=3.0) for floor in PLAIN]
    design = Design("", (1,), 1)
    drawn = draw(certain, design, 0.0, replicates=REPLICATES, generator=random())
    judged = judge(from_values(drawn.values, drawn.known, np.full(6, 1000.0)))
    assert judged.any_rate("better") > 0.05
    assert judged.coverage(0.0).max() < 0.93


def test_better_and_worse_are_never_confused_when_the_difference_is_large() -> None:
    judged = judge(simulate(PLAIN, Design("", (1,), 3), 0.3, replicates=REPLICATES, generator=random()))
    assert judged.rate("better").min() > 0.98
    assert judged.any_rate("worse") < 0.001


def test_same_is_rarely_said_of_a_difference_of_the_margin() -> None:
    quiet = [replace(floor, cell_sd=0.002) for floor in PLAIN]
    at_margin = judge(simulate(quiet, Design("", (1,), 3), 0.01, replicates=REPLICATES, generator=random()))
    assert at_margin.rate("same").max() <= 0.05
    equal = judge(simulate(quiet, Design("", (1,), 3), 0.0, replicates=REPLICATES, generator=random()))
    assert equal.rate("same").min() > 0.8


def test_five_better_and_one_not_rarely_beats_all_and_never_twice() -> None:
    """The least favourable case, and what confirmation with fresh seeds makes of it."""
    truth = np.asarray([0.5, 0.5, 0.5, 0.5, 0.5, 0.0])
    design = Design("", (1,), 3)
    first = draw(PLAIN, design, truth, replicates=40000, generator=random())
    second = draw(PLAIN, design, truth, replicates=40000, generator=np.random.default_rng(8))
    won = [
        np.all(judge(from_values(d.values, d.known, d.weight)).words == "better", axis=-1)
        for d in (first, second)
    ]
    assert np.mean(won[0]) == pytest.approx(0.025, abs=0.006)
    assert np.mean(won[0] & won[1]) <= 0.001


@pytest.mark.parametrize("sample", [ceiling, two_outcomes, heavy_tails])
@pytest.mark.parametrize(("settings", "seeds"), [(1, 1), (1, 3), (1, 5), (11, 3)])
def test_without_a_difference_and_without_normal_noise(sample: object, settings: int, seeds: int) -> None:
    design = Design("", (settings,), seeds)
    drawn = draw_unlike_normal(sample, design, replicates=1500, generator=random())  # type: ignore[arg-type]
    judged = judge(from_values(drawn.values, drawn.known, drawn.weight))
    assert judged.any_rate("better") <= 0.05
    assert judged.all_rate("better") <= 0.001
    assert judged.coverage(0.0).min() >= 0.93


LOOKS = pytest.mark.parametrize("looks", [(1, 2, 3, 5, 8), (2, 4), tuple(range(1, 11))])


def stopped_without_a_difference(
    floors: list[NoiseFloor], looks: tuple[int, ...], levels: list[float] | None = None
) -> Stopped:
    design = Design("", (1,), looks[-1])
    drawn = draw(floors, design, 0.0, replicates=REPLICATES, generator=random(), levels=levels)
    return judge_sequentially(drawn, UntilDecided(looks=looks))


@pytest.mark.parametrize("floors", WORLDS)
@LOOKS
def test_peeking_keeps_the_error_rate(floors: list[NoiseFloor], looks: tuple[int, ...]) -> None:
    stopped = stopped_without_a_difference(floors, looks)
    for word in ("better", "worse"):
        assert np.mean(np.any(stopped.words == word, axis=-1)) <= 0.05
        assert np.mean(np.all(stopped.words == word, axis=-1)) <= 0.001
    assert stopped.coverage(0.0).min() >= 0.93


@pytest.mark.parametrize("floors", WORLDS)
@LOOKS
def test_peeking_keeps_intervals_from_being_too_wide(
    floors: list[NoiseFloor], looks: tuple[int, ...]
) -> None:
    """Of the tasks that are given intervals: not of those that arithmetic closes at the first look.

    The others are drawn without the cut at 1, near which noise is smaller than what is known of it.
    """
    tested = np.ones(len(TASKS), bool)
    if floors is MEASURED:
        tested = stopped_without_a_difference(floors, looks, LEVELS).closed.mean(axis=0) < 0.99
    assert tested.sum() >= 4
    assert stopped_without_a_difference(floors, looks).coverage(0.0)[tested].max() <= 0.97


@LOOKS
def test_peeking_near_the_ceiling_keeps_the_error_rate(looks: tuple[int, ...]) -> None:
    """The measured world with its ceiling: no score exceeds 1, so noise is cut off there."""
    stopped = stopped_without_a_difference(MEASURED, looks, LEVELS)
    for word in ("better", "worse"):
        assert np.mean(np.any(stopped.words == word, axis=-1)) <= 0.05
    assert stopped.coverage(0.0).min() >= 0.93


class Plain(UntilDecided):
    """Intervals of 95% at each look, as with a fixed number of seeds."""

    @property
    def interval_level(self) -> float:
        return self.level


PLANS = [*map(UntilDecided.up_to, (2, 3, 5, 8)), *(Plain((seeds,)) for seeds in (1, 2, 3, 5, 8))]


@pytest.mark.parametrize("policy", PLANS, ids=lambda policy: f"{type(policy).__name__} {policy.looks}")
def test_near_the_ceiling_intervals_are_neither_too_wide_nor_too_narrow(policy: UntilDecided) -> None:
    """With the cut at 1, of the comparisons in which not all scores lie at the ceiling; with one seed, where
    those are the surprising ones, of all."""
    levels, design = [0.995, 0.99, 0.985, 0.98, 0.95, 0.9], Design("", (1,), policy.looks[-1])
    drawn = draw(PLAIN, design, 0.0, replicates=REPLICATES, generator=random(), levels=levels)
    stopped = judge_sequentially(drawn, policy)
    given = (stopped.closed == 0) | (policy.looks == (1,))
    held = ((stopped.low <= 0) & (stopped.high >= 0) & given).sum(axis=0) / given.sum(axis=0)
    assert held.min() >= 0.93
    assert held.max() <= 0.97


@pytest.mark.parametrize(
    ("looks", "word", "seeds"), [((1, 2, 3, 5, 8), "undecided", 1), ((5, 11), "same", 11)]
)
@pytest.mark.parametrize("truth", [0.0, -0.004])
def test_at_the_ceiling_seeds_are_spent_only_where_they_can_tell(
    truth: float, looks: tuple[int, ...], word: str, seeds: int
) -> None:
    """Both within the margin of 1 with every seed: no difference is found, however loud others are."""
    quiet = [replace(floor, cell_sd=0.0003) for floor in PLAIN]
    design = Design("", (1,), looks[-1])
    drawn = draw(quiet, design, truth, replicates=REPLICATES, generator=random(), levels=0.998)
    stopped = judge_sequentially(replace(drawn, known=drawn.known * 1e4), UntilDecided(looks))
    assert np.mean(stopped.words == word) > 0.999
    assert stopped.seeds.mean() == pytest.approx(seeds, abs=0.01)
    assert stopped.coverage(truth).min() > 0.97


@pytest.mark.parametrize("noise", [1e-4, 0.03], ids=["quiet", "loud"])
@pytest.mark.parametrize("level", [0.9995, 0.9905, 0.9895])
@pytest.mark.parametrize("looks", [(1,), (2,), (3,), (8,), (11,), (1, 2, 3, 5, 8), tuple(range(1, 16))])
def test_a_rule_that_one_seed_in_four_fails_is_rarely_called_the_same(
    looks: tuple[int, ...], level: float, noise: float
) -> None:
    """1.0, 1.0, 1.0, 0.2 beside a rule near the ceiling that never fails; either may be the candidate."""
    generator = random()
    fails = generator.random((looks[-1], 6000, 1)) < FAILING
    bimodal = np.where(fails, 0.2, 1.0)
    steady = np.minimum(generator.normal(level, 1e-4, fails.shape), 1.0)
    for ours, theirs in ((bimodal, steady), (steady, bimodal)):
        known = np.full(ours.shape[1:], 2 * noise**2)
        drawn = Drawn(ours - theirs, known, np.full(1, 9.0), (ours, theirs))
        assert np.mean(judge_sequentially(drawn, UntilDecided(looks)).words == "same") <= 0.05


def test_rules_that_never_fail_are_called_the_same_after_enough_seeds() -> None:
    """The bound above is not kept by never saying it."""
    scores = np.minimum(random().normal(0.9985, 5e-4, (2, SURE_SEEDS, 2000, 6)), 1.0)
    drawn = Drawn(
        scores[0] - scores[1], np.full(scores.shape[2:], 1e-6), np.full(6, 9.0), (scores[0], scores[1])
    )
    assert np.mean(judge_sequentially(drawn, UntilDecided((SURE_SEEDS,))).words == "same") > 0.99


@pytest.mark.parametrize("floors", WORLDS)
@pytest.mark.parametrize("most", [2, 5, 8, 13])
@pytest.mark.parametrize("truth", [0.005, 0.02, 0.05, 0.1])
def test_intervals_hold_true_differences_though_they_say_when_to_stop(
    floors: list[NoiseFloor], most: int, truth: float
) -> None:
    drawn = draw(floors, Design("", (1,), most), truth, replicates=REPLICATES, generator=random())
    coverage = judge_sequentially(drawn, UntilDecided.up_to(most)).coverage(truth)
    assert coverage.min() >= 0.93
    assert coverage.max() <= 0.97


def test_plain_intervals_at_the_stop_would_be_noticed() -> None:
    """Why the intervals are wider than 95% ones: those hold the truth less often by then."""

    drawn = draw(SHIPPED, Design("", (1,), 8), 0.01, replicates=REPLICATES, generator=random())
    assert judge_sequentially(drawn, Plain()).coverage(0.01).min() < 0.93


def test_peeking_without_spending_would_be_noticed() -> None:
    looks = tuple(range(2, 21))
    drawn = draw(PLAIN, Design("", (1,), 20), 0.0, replicates=2000, generator=random())
    found = [judge(from_values(drawn.values[:n], drawn.known, drawn.weight)).words == "better" for n in looks]
    assert np.mean(np.any(np.any(found, axis=0), axis=-1)) > 0.05


def test_stopping_early_saves_seeds_where_the_difference_is_large() -> None:
    policy = UntilDecided()
    drawn = draw(PLAIN, Design("", (1,), 8), 0.3, replicates=1000, generator=random())
    stopped = judge_sequentially(drawn, policy)
    assert np.mean(stopped.words == "better") > 0.99
    assert stopped.seeds.mean() < 3


def comparison_of(drawn: Drawn, index: int) -> Comparison:
    """The same simulated comparison as runs, judged the way real ones are."""
    tasks = {task: position for position, task in enumerate(TASKS)}

    def score(rule: str, task: str, setting: str, seed: int) -> float:
        return 0.5 + (rule == "a") * float(drawn.values[seed, index, tasks[task]])

    floors = {
        task: NoiseFloor(
            task, 0.0, 12, "drawn", 1, float(np.sqrt(drawn.known[index, position] / 2)), heterogeneity=6.0
        )
        for task, position in tasks.items()
    }
    runs = make_runs("ab", score, seeds=range(drawn.values.shape[0]))
    return compare(runs, "a", "b", preset="full", noise=floors)


def test_real_runs_are_judged_exactly_as_simulated_ones() -> None:
    drawn = draw(PLAIN, Design("", (1,), 3), 0.05, replicates=25, generator=random())
    judged = judge(from_values(drawn.values, drawn.known, drawn.weight))
    for index in range(25):
        tasks = comparison_of(drawn, index).tasks
        assert [one.word for one in tasks] == judged.words[index].tolist()
        np.testing.assert_allclose([one.low for one in tasks], judged.low[index])
        np.testing.assert_allclose([one.high for one in tasks], judged.high[index])


def test_coverage_from_runs_to_intervals_with_noise_learned_from_other_rules() -> None:
    """Everything at once: uneven settings, shared data noise, a grid of two, floors from four other rules."""
    generator = random()
    covered = []
    sds = {"0": 0.02, "1": 0.06}
    for _ in range(60):
        shared: dict[tuple[str, int], float] = {}

        def score(rule: str, task: str, setting: str, seed: int, shared: dict = shared) -> float:
            common = shared.setdefault((setting, seed), float(generator.normal(0, 0.05)))
            return 0.5 + common + float(generator.normal(0, sds[setting[-1]]))

        runs = make_runs("abcdef", score, settings=2, seeds=(0, 1, 2))
        result = compare(runs, "a", "b", preset="full")
        covered += [one.low <= 0 <= one.high for one in result.tasks]  # type: ignore[operator]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.035)


QUIET_AND_LOUD = {
    "a": 0.9995,
    "b": 0.9993,
    "c": 0.9985,
    "d": 0.9,
    "e": 0.999,
    "f": 0.98,
    "g": 0.98,
    "h": 0.97,
}
"""True scores of rules on one task, as in results/: their noise is in proportion to what they lack."""


@pytest.mark.parametrize(("seeds", "most"), [(1, 1.0), (3, 0.98)])
@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_loud_rules_beside_quiet_ones_are_not_judged_by_their_noise(
    seeds: int, most: float, spread: float
) -> None:
    """f and g are equal and move by a hundredth; most others, by which the floor is known, hardly move."""
    generator = random()

    def score(rule: str, *_: object) -> float:
        return 1 - (1 - QUIET_AND_LOUD[rule]) * float(np.exp(generator.normal(0, spread) - spread**2 / 2))

    found = [
        compare(make_runs("abcdefgh", score, seeds=(0, 1, 2)), "f", "g", preset="full", seeds=range(seeds))
        for _ in range(100)
    ]
    given = [task for one in found for task in one.tasks if not task.no_room]
    covered = np.mean([task.low <= 0 <= task.high for task in given])  # type: ignore[operator]
    assert 0.93 <= covered <= most
    assert np.mean([any(task.word == "better" for task in one.tasks) for one in found]) <= 0.05


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_task_that_is_learned_or_not_rarely_tells_equal_rules_apart(seeds: int) -> None:
    """Ten equal rules learn one task with half of the seeds: 0.97, else 0.04. Each end of the scale alone
    would say that scores hardly move there."""
    generator = random()

    def score(rule: str, task: str, *_: object) -> float:
        odds = generator.choice((3.5, -3.2)) + generator.normal(0, 0.1)
        return float(1 / (1 + np.exp(-(odds if task == "Memorize" else generator.normal(0, 0.4)))))

    found = [
        compare(make_runs("abcdefghij", score, seeds=(0, 1, 2)), "a", "b", preset="full", seeds=range(seeds))
        for _ in range(150)
    ]
    told_apart = [any(task.word in ("better", "worse") for task in one.tasks) for one in found]
    memorize = [task for one in found for task in one.tasks if task.task == "Memorize"]
    assert np.mean(told_apart) <= 0.08
    assert np.mean([task.low <= 0 <= task.high for task in memorize]) >= 0.93  # type: ignore[operator]
