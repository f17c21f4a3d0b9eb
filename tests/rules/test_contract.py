"""The laws of the contract, for every registered rule: a new file in the library is tested by being there.

Random inputs in float64; parameters at their initial values ("initial") and far from them ("moved").
"""

from dataclasses import replace

import pytest
import torch

from archer.rules import get_rule, rule_names
from archer.rules.inputs import Inputs, random_inputs

RULES = rule_names()
LENGTHS = (1, 31, 32, 33, 63, 100, 127, 255)
SPREADS = {"initial": 0.0, "moved": 1.0}
EVER_WRITING = {"mamba2", "gated_delta_product"}
"""Rules that do not promise to write nothing at beta = 0: they have a write strength of their own."""


@pytest.fixture(params=RULES)
def rule(request):
    return get_rule(request.param)


def same_state(left, right, tolerance=0.0):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_future_does_not_change_the_past(rule, length):
    inputs = random_inputs(rule, seed=length, leading=(2, 2), length=length, spread=1.0)
    other = random_inputs(rule, seed=length + 1, leading=(2, 2), length=length)
    o, _ = inputs.run(rule)
    for first in {1, length // 2, 31, 32, 33, length - 1} & set(range(1, length)):
        changed = joined(inputs.tokens(0, first), other.tokens(first, length))
        assert torch.equal(changed.run(rule)[0][..., :first, :], o[..., :first, :]), (
            f"changed from {first} on"
        )


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
def test_a_sequence_may_end_anywhere(rule, spread):
    inputs = random_inputs(rule, length=100, spread=spread)
    o, _ = inputs.run(rule)
    assert o.shape == inputs.v.shape
    for length in (1, 20, 32, 45, 64, 95):
        shorter, _ = inputs.tokens(0, length).run(rule)
        torch.testing.assert_close(shorter, o[..., :length, :], rtol=1e-10, atol=1e-10)


def test_an_empty_sequence_gives_nothing_and_leaves_the_state(rule):
    inputs = random_inputs(rule, length=64)
    _, state = inputs.run(rule)
    o, after = inputs.tokens(0, 0).run(rule, state)
    assert o.shape[-2] == 0
    same_state(after, state)


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("cut", [32, 64, 96])
def test_a_cut_at_a_chunk_boundary_changes_nothing(rule, cut, spread):
    inputs = random_inputs(rule, length=100, spread=spread)
    o, state = inputs.run(rule)
    before, middle = inputs.tokens(0, cut).run(rule)
    after, last = inputs.tokens(cut, 100).run(rule, middle)
    torch.testing.assert_close(torch.cat((before, after), -2), o, rtol=1e-10, atol=1e-10)
    same_state(last, state, tolerance=1e-10)


def test_sequences_and_heads_do_not_see_each_other(rule):
    inputs = random_inputs(rule, leading=(2, 3), length=70, spread=1.0)
    other = random_inputs(rule, seed=1, leading=(2, 3), length=70, spread=1.0)
    o, _ = inputs.run(rule)
    batch_changed = joined(inputs.map(lambda x: x[:1]), other.map(lambda x: x[1:]), axis=0)
    assert torch.equal(batch_changed.run(rule)[0][0], o[0])
    head_changed = joined(inputs.map(lambda x: x[:, :1]), other.map(lambda x: x[:, 1:]), axis=1)
    parameters = {n: torch.cat((x[:1], other.parameters[n][1:])) for n, x in inputs.parameters.items()}
    assert torch.equal(replace(head_changed, parameters=parameters).run(rule)[0][:, 0], o[:, 0])


def test_axes_in_front_are_only_added(rule):
    inputs = random_inputs(rule, leading=(2, 3), length=70, spread=1.0)
    o, state = inputs.run(rule)
    alone = replace(inputs.map(lambda x: x[1, 2]), parameters={n: x[2] for n, x in inputs.parameters.items()})
    o_alone, state_alone = alone.run(rule)
    torch.testing.assert_close(o_alone, o[1, 2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state_alone["S"], state["S"][1, 2], rtol=1e-10, atol=1e-10)


def test_vmap_over_runs_equals_each_run(rule):
    runs = [random_inputs(rule, seed=seed, leading=(2, 3), length=40, spread=1.0) for seed in (0, 1)]

    def one(tensors):
        return with_tensors(runs[0], tensors).run(rule)[0]

    stacked = {name: torch.stack([run.tensors()[name] for run in runs]) for name in runs[0].tensors()}
    together = torch.func.vmap(one)(stacked)
    for run, o in zip(runs, together, strict=True):
        torch.testing.assert_close(o, run.run(rule)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["random", "beta 0", "zero keys", "one token repeated"])
def test_gradients_are_finite(rule, dtype, case):
    inputs = awkward(random_inputs(rule, length=100, spread=0.5, dtype=dtype), case)
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.tensors().items()}
    o, state = with_tensors(inputs, leaves).run(rule)
    (o.float().square().sum() + state["S"].float().square().sum()).backward()
    assert o.isfinite().all()
    for name, leaf in leaves.items():
        assert leaf.grad is None or leaf.grad.isfinite().all(), name


def test_everything_declared_is_learned(rule):
    inputs = random_inputs(rule, length=100, dtype=torch.float32)
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.tensors().items()}
    o, _ = with_tensors(inputs, leaves).run(rule)
    o.square().sum().backward()
    for name in (*rule.parameters, *rule.features):
        gradient = leaves[name].grad
        assert gradient is not None, name
        assert (gradient.flatten(1).abs().sum(1) > 0).all(), name


def test_a_call_leaves_nothing_behind(rule):
    inputs = random_inputs(rule, length=70, spread=1.0)
    before = {name: x.clone() for name, x in inputs.tensors().items()}
    o, state = inputs.run(rule)
    random_inputs(rule, seed=1, length=33).run(rule)
    again, state_again = inputs.run(rule)
    assert torch.equal(again, o)
    same_state(state_again, state)
    assert all(torch.equal(x, before[name]) for name, x in inputs.tensors().items())


def test_a_carried_state_is_not_changed_in_place(rule):
    inputs = random_inputs(rule, length=64)
    _, state = inputs.run(rule)
    before = {name: x.clone() for name, x in state.items()}
    inputs.run(rule, state)
    same_state(state, before)


@pytest.mark.parametrize("name", [name for name in RULES if name not in EVER_WRITING])
def test_nothing_is_written_at_beta_zero(name):
    rule = get_rule(name)
    inputs = random_inputs(rule, length=100, spread=1.0)
    _, state = replace(inputs, beta=torch.zeros_like(inputs.beta)).run(rule)
    assert (state["S"] == 0).all()


def test_low_precision_stays_close(rule):
    """Mixed precision: the state in float32, the products in bfloat16; 3e-2 is a few of its steps of 2⁻⁸."""
    exact, _ = random_inputs(rule, length=64, dtype=torch.float64).run(rule)
    o, state = random_inputs(rule, length=64, dtype=torch.bfloat16).run(rule)
    assert state["S"].dtype == torch.float32
    assert (o.double() - exact).abs().mean() < 3e-2 * exact.abs().mean() + 3e-3


def joined(left: Inputs, right: Inputs, axis: int = -2) -> Inputs:
    """Per-token tensors of both, one after the other; the parameters of the left."""
    others = right.tensors()
    pairs = {
        n: torch.cat((x, others[n]), axis) for n, x in left.tensors().items() if n not in left.parameters
    }
    return with_tensors(left, {**pairs, **left.parameters})


def with_tensors(inputs: Inputs, tensors) -> Inputs:
    features = {name: tensors[name] for name in inputs.features}
    parameters = {name: tensors[name] for name in inputs.parameters}
    return Inputs(tensors["q"], tensors["k"], tensors["v"], tensors["beta"], features, parameters)


def awkward(inputs: Inputs, case: str) -> Inputs:
    if case == "beta 0":
        return replace(inputs, beta=torch.zeros_like(inputs.beta))
    if case == "zero keys":
        return replace(inputs, q=torch.zeros_like(inputs.q), k=torch.zeros_like(inputs.k))
    if case == "one token repeated":
        return inputs.map(lambda x: x[..., :1, :].expand(x.shape).contiguous())
    return inputs
