"""How long a training may still take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fleet.tiny import tiny_runs

from archer.cli.progress import duration
from archer.cycle.remaining import Remaining


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def told(**ages: float) -> dict[str, object]:
    return {"event": "epoch", "ages": ages}


def test_the_time_left_is_what_the_tokens_left_take_at_the_pace_so_far():
    short, *others = tiny_runs(3, epochs=10)
    long = replace(others[0], setting=replace(short.setting, length=40))
    assert long.epoch_tokens == 40 * 64
    assert short.epoch_tokens == 24 * 64  # filled up to whole chunks of 8
    clock = Clock()
    remaining = Remaining([short, long], clock)
    remaining.after(told(**{short.key: 0, long.key: 0}))
    assert remaining.after(told()) is None
    clock.now += 24
    assert remaining.after(told(**{short.key: 1})) == pytest.approx(9 * 24 + 10 * 40)
    clock.now += 40
    assert remaining.after(told(**{long.key: 1})) == pytest.approx(9 * 24 + 9 * 40)
    remaining.is_over(long.key)  # early
    assert remaining.after(told()) == pytest.approx(9 * 24)


def test_what_an_earlier_process_trained_is_no_pace():
    run = tiny_runs(1, epochs=10)[0]
    clock = Clock()
    remaining = Remaining([run], clock)
    clock.now += 3
    assert remaining.after(told(**{run.key: 7.5})) is None
    clock.now += 3
    assert remaining.after(told(**{run.key: 8})) == pytest.approx(2 * 2 * 6)


def test_a_process_that_begins_again_from_a_checkpoint_gains_nothing_at_first():
    run = tiny_runs(1, epochs=10)[0]
    clock = Clock()
    remaining = Remaining([run], clock)
    remaining.after(told(**{run.key: 0}))
    clock.now += 4
    remaining.after(told(**{run.key: 1}))
    remaining.after(told(**{run.key: 2}))
    clock.now += 4
    assert remaining.after(told(**{run.key: 1})) == pytest.approx(9 * 8)


def test_less_than_a_token_is_no_pace():
    run = tiny_runs(1, epochs=10)[0]
    clock = Clock()
    remaining = Remaining([run], clock)
    remaining.after(told(**{run.key: 0}))
    clock.now += 1
    assert remaining.after(told(**{run.key: 1e-310})) is None


@pytest.mark.parametrize("age", ["3", None, -1, 11, float("nan"), float("inf"), [1]])
def test_what_is_no_age_is_not_heard(age: object):
    run = tiny_runs(1, epochs=10)[0]
    clock = Clock()
    remaining = Remaining([run], clock)
    remaining.after(told(**{run.key: 0}))
    clock.now += 1
    assert remaining.after({"event": "epoch", "ages": {run.key: age, "nobody": 1}}) is None
    assert remaining.after({"event": "epoch", "ages": [age]}) is None
    assert remaining.after({"event": "epoch"}) is None
    assert remaining.after(told(**{run.key: 1})) == pytest.approx(9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 min"), (61, "2 min"), (3600, "1 h 0 min"), (3601, "1 h 1 min"), (47 * 3600, "47 h 0 min"),
     (48 * 3600, "2 days 0 h"), (99.5 * 3600, "4 days 4 h")],
)  # fmt: skip
def test_a_duration_is_rounded_up_and_said_in_two_units(seconds: float, text: str):
    assert duration(seconds) == text
