"""A member of a fleet is the same run as alone, whatever its neighbours do."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fleet.tiny import load, tiny_runs

from archer.fleet.fleet import Fleet, restored
from archer.fleet.run import Evaluation, Outcome, Run
from archer.fleet.state import Weights
from archer.fleet.train import Options, build_model, train

CPU = torch.device("cpu")


def start(runs: list[Run]) -> Fleet:
    return Fleet.start(build_model(runs[0]), runs, load, CPU)


def losses_of(runs: list[Run], steps: int) -> torch.Tensor:
    """[steps, F]: the loss before each step, over and over the same few batches."""
    fleet = start(runs)
    order = torch.arange(64).view(4, 16)
    return torch.stack(
        [fleet.train_step(order[i % 4].expand(len(runs), -1), fleet.rates) for i in range(steps)]
    )


@pytest.mark.parametrize("rule", ["delta_net", "gated_delta_net"])
def test_a_member_equals_its_solo_run_over_200_steps(rule: str) -> None:
    runs = tiny_runs(3, rule)
    together = losses_of(runs, 200)
    for index, run in list(enumerate(runs))[::2]:
        assert torch.allclose(together[:, index], losses_of([run], 200)[:, 0], atol=1e-5, rtol=0)
    assert together[-1].mean() < together[0].mean() - 0.1, "nothing was learned, so nothing was compared"


def test_different_seeds_differ() -> None:
    first, second = losses_of(tiny_runs(2, rates=(1e-3,)), 3).unbind(1)
    assert (first - second).abs().min() > 1e-4


def test_a_diverging_member_disturbs_no_other() -> None:
    runs = tiny_runs(3)
    wild = [runs[0], replace(runs[1], learning_rate=float("nan")), runs[2]]
    outcomes = {outcome.key: outcome for outcome in train(wild, load=load)}
    calm = {outcome.key: outcome for outcome in train([runs[0], runs[2]], load=load)}
    assert outcomes[wild[1].key].status == "diverged"
    assert outcomes[wild[1].key].held_out is None
    for run in (runs[0], runs[2]):
        assert results(outcomes[run.key]) == results(calm[run.key])


def test_two_executions_agree() -> None:
    runs = tiny_runs(3)
    first, second = (sorted(map(results, train(runs, load=load))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("largest", [1, 2])
def test_waiting_runs_take_free_places(largest: int) -> None:
    """Packed one or two at a time, the runs end as they do all together."""
    runs = tiny_runs(5)
    packed = sorted(map(results, train(runs, Options(largest=largest), load=load)))
    assert packed == sorted(map(results, train(runs, load=load)))


def test_adamw_is_torchs() -> None:
    """Each member's weights move as torch.optim.AdamW moves them, with its own rate and decay."""
    runs = tiny_runs(2)
    fleet = start(runs)
    mine = fleet.weights
    theirs = [torch.nn.Parameter(row.clone()) for row in mine.flat]
    optimisers = [
        torch.optim.AdamW([row], lr=run.learning_rate, weight_decay=run.weight_decay)
        for row, run in zip(theirs, runs, strict=True)
    ]
    for step in range(5):
        gradient = torch.randn(mine.flat.shape, generator=torch.Generator().manual_seed(step))
        mine.update(gradient, fleet.rates, fleet.decays)
        for row, one, optimiser in zip(theirs, gradient, optimisers, strict=True):
            row.grad = one.clone()
            optimiser.step()
    assert torch.allclose(mine.flat, torch.stack([row.detach() for row in theirs]), atol=1e-6)


def test_out_of_memory_makes_the_fleet_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fleets of more than two members run out of memory in the middle of an epoch; the results stay."""
    runs = tiny_runs(5)
    wanted = sorted(map(results, train(runs, load=load)))
    plain, calls = Weights.gradient, []

    def scarce(self: Weights, loss: torch.Tensor) -> torch.Tensor:
        calls.append(len(self.flat))
        if len(self.flat) > 2 and len(calls) % 3 == 0:
            raise torch.OutOfMemoryError("not enough memory (made up by the test)")
        return plain(self, loss)

    monkeypatch.setattr(Weights, "gradient", scarce)
    events: list[dict[str, object]] = []
    assert sorted(map(results, train(runs, load=load, report=events.append))) == wanted
    assert [e["members"] for e in events if e["event"] == "smaller"] == [2]


@pytest.mark.parametrize("evaluate_every", [1, 2])
def test_out_of_memory_in_an_evaluation_loses_no_point(
    evaluate_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained for an epoch and not evaluated yet, members go on from there, those that wait included."""
    runs = tiny_runs(5, epochs=3, evaluate_every=evaluate_every)
    wanted = sorted(map(results, train(runs, load=load)))
    plain, failed = Fleet.look, []

    def scarce(self: Fleet, *given: Any) -> tuple[torch.Tensor, ...]:
        if self.size > 2:
            failed.append(self.members[0].epoch)
            raise torch.OutOfMemoryError("not enough memory (made up by the test)")
        return plain(self, *given)

    monkeypatch.setattr(Fleet, "look", scarce)
    assert sorted(map(results, train(runs, load=load))) == wanted
    assert failed == [evaluate_every]


def test_who_is_not_due_gets_no_point_from_a_neighbours_evaluation() -> None:
    fleet = start(tiny_runs(4, epochs=5, evaluate_every=2))
    ages = (2, 3, 4, 5)  # due, not due, seen before, at its end
    fleet.members = [
        replace(m, epoch=age, train_loss=1.0) for m, age in zip(fleet.members, ages, strict=True)
    ]
    seen = Evaluation(4, 1.0, 1.0, 0.5, 1.0, 0.5)
    fleet.members[2] = replace(fleet.members[2], curve=(seen,))
    assert fleet.due()
    fleet.evaluate()
    assert [[point.epoch for point in m.curve] for m in fleet.members] == [[2], [], [4], [5]]
    assert fleet.members[2].curve == (seen,)
    assert not fleet.due()


def test_a_fleet_that_does_not_fit_is_gone_before_a_smaller_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a device that is full there is no room for both."""
    large: list[weakref.ref[Weights]] = []
    plain = Weights.gradient

    def scarce(self: Weights, loss: torch.Tensor) -> torch.Tensor:
        if len(self.flat) > 2:
            large.append(weakref.ref(self))
            raise torch.OutOfMemoryError("not enough memory (made up by the test)")
        return plain(self, loss)

    def looking(*given: Any) -> Fleet:
        assert [one() for one in large] == [None]
        return restored(*given)

    monkeypatch.setattr(Weights, "gradient", scarce)
    monkeypatch.setattr("archer.fleet.train.restored", looking)
    assert len(list(train(tiny_runs(5), load=load))) == 5
    assert len(large) == 1


def test_one_run_that_does_not_fit_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(self: Weights, loss: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("not enough memory (made up by the test)")

    monkeypatch.setattr(Weights, "gradient", scarce)
    with pytest.raises(MemoryError, match=r"one run of context-recall.* does not fit"):
        list(train(tiny_runs(2), load=load))


def test_a_run_stops_once_it_is_as_good_as_can_be_told() -> None:
    runs = tiny_runs(2, setting="memorize", rates=(1e-2,), epochs=60, stop_accuracy=0.9)
    for outcome in train(runs, load=load):
        last = outcome.curve[-1]
        assert min(last.test_accuracy, last.validation_accuracy) >= 0.9
        assert outcome.epochs < 60


def test_the_auto_encoder_learns() -> None:
    runs = tiny_runs(2, setting="compress", rates=(1e-2,), epochs=8)
    for outcome in train(runs, load=load):
        assert outcome.curve[-1].train_loss < outcome.curve[0].train_loss - 0.05


def results(outcome: Outcome) -> tuple[object, ...]:
    """What a run resulted in, without how long it took."""
    curve = tuple((point.epoch, round(point.test_loss, 4)) for point in outcome.curve)
    return (outcome.key, outcome.status, outcome.epochs, curve)


def test_what_is_compiled_keeps_its_rows_until_half_of_them_would_be_spare() -> None:
    """A region that compiles nothing stands for one that does: its shapes are what is looked at."""
    shapes: list[int] = []

    def region(function, name):
        def seen(*given):
            made = function(*given)
            shapes.append((made[0] if isinstance(made, tuple) else made).shape[0])
            return made

        return seen

    runs = tiny_runs(5, epochs=6)
    fleet = Fleet.start(build_model(runs[0]), runs, load, CPU, region)
    gone, expected = [(), (1, 3), (4,), (), ()], [5, 5, 2, 2, 2]
    for leaving, rows in zip(gone, expected, strict=True):
        fleet.leave(lambda member, keys=frozenset(runs[i].key for i in leaving): member.run.key in keys)
        shapes.clear()
        fleet.run_epoch()
        fleet.evaluate()
        assert set(shapes) == {rows}
        assert fleet.state()["weights"]["flat"].shape[0] == fleet.size
    assert [member.run for member in fleet.members] == [runs[0], runs[2]]
    for member in fleet.members:
        alone = start([member.run])
        for _ in range(5):
            alone.run_epoch()
            alone.evaluate()
        losses = [[p.train_loss, p.test_loss] for m in (member, alone.members[0]) for p in m.curve]
        half = len(losses) // 2
        assert torch.allclose(torch.tensor(losses[:half]), torch.tensor(losses[half:]), atol=1e-5)


def test_a_compiled_run_alone_has_a_spare_row_and_loses_what_it_loses_alone() -> None:
    """For one row PyTorch would compile another program."""
    run = tiny_runs(1, epochs=2)[0]
    compiled = Fleet.start(build_model(run), [run], load, CPU, lambda function, name: function)
    plain = start([run])
    assert (compiled.size, compiled.rows, plain.rows) == (1, 2, 1)
    for fleet in (compiled, plain):
        fleet.run_epoch()
        fleet.evaluate()
    assert compiled.members[0].curve[0].test_loss == pytest.approx(
        plain.members[0].curve[0].test_loss, abs=1e-6
    )
    assert compiled.state()["weights"]["flat"].shape[0] == 1


def test_the_last_run_that_does_not_fit_with_its_spare_row_goes_on_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = tiny_runs(1)
    wanted = sorted(map(results, train(runs, load=load)))
    plain = Weights.gradient

    def scarce(self: Weights, loss: torch.Tensor) -> torch.Tensor:
        if self.flat.shape[0] > 1:
            raise torch.OutOfMemoryError("not enough memory (made up by the test)")
        return plain(self, loss)

    monkeypatch.setattr(Weights, "gradient", scarce)
    monkeypatch.setattr("archer.fleet.train.compiler", lambda exact: lambda function, name: function)
    assert sorted(map(results, train(runs, Options(compiled=True), load=load))) == wanted


def test_runs_that_join_take_the_place_of_spare_rows() -> None:
    runs = tiny_runs(6, epochs=3)
    kept = Fleet.start(build_model(runs[0]), runs[:4], load, CPU, lambda function, name: function)
    kept.run_epoch()
    kept.select([0, 2, 3])
    assert (kept.size, kept.rows) == (3, 4)
    restarted = restored(kept.model, runs, kept.state(), load, CPU)
    assert (restarted.size, restarted.rows) == (3, 3)
    kept.run_epoch()
    restarted.run_epoch()
    assert torch.allclose(kept.weights_of_members().flat, restarted.weights.flat, atol=1e-6)
