"""Chunk forms against token-by-token recurrences, written here from the papers, and against fla's own."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize, silu, softplus

from archer.rules import faded_products, get_rule, invert_unit_lower
from archer.rules.inputs import Inputs, random_inputs

LENGTHS = (1, 31, 32, 33, 63, 100, 127)
TOKEN_RULES = ("delta_net", "gated_delta_net", "kda", "comba", "mamba2", "gated_delta_product", "rope")
"""Rules with a recurrence over tokens, which therefore do not depend on the chunk size."""


def recurrence(name: str, x: Inputs):
    """S_t = fade S_{t-1}, then one or two writes k (target - read S) beta, then o_t = q_t S_t."""
    q, k = x.q * x.q.shape[-1] ** -0.5, x.k
    if name == "rope":
        q, k = turn(q), turn(k)
    fade, read, writes = torch.ones_like(x.beta), k, []
    if "a" in x.features:
        step = softplus(x.features["a"] + x.parameters["dt_bias"])
        fade = (-x.parameters["A_log"].exp() * step).exp()
    if name == "comba":
        read = x.parameters["feedback"] * k
        q = q - x.parameters["correction"] * x.q.shape[-1] ** -0.5 * read
    if name == "mamba2":
        writes.append((k, torch.zeros_like(k), x.v, step))
    else:
        writes.append((k, read, x.v, x.beta))
    if name == "gated_delta_product":
        k_second = normalize(silu(x.features["k_second"]), dim=-1)
        writes.append((k_second, k_second, silu(x.features["v_second"]), x.features["beta_second"]))
    S = x.v.new_zeros(*x.v.shape[:-2], q.shape[-1], x.v.shape[-1])
    outputs = []
    for t in range(q.shape[-2]):
        S = fade[..., t, :, None] * S
        for key, reading, value, strength in writes:
            held = (reading[..., t, None, :] @ S).squeeze(-2)
            S = S + key[..., t, :, None] * (strength[..., t, :] * (value[..., t, :] - held))[..., None, :]
        outputs.append((q[..., t, None, :] @ S).squeeze(-2))
    return torch.stack(outputs, -2), S


def turn(x):
    """Rotation as a product of complex numbers."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** -(torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequency
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def gradients(inputs: Inputs, run):
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.tensors().items()}
    fresh = replace(
        inputs,
        **{n: leaves[n] for n in ("q", "k", "v", "beta")},
        features={n: leaves[n] for n in inputs.features},
        parameters={n: leaves[n] for n in inputs.parameters},
    )
    o, S = run(fresh)
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)
    ((o * weights).sum() + S.square().sum()).backward()
    return o, S, {name: leaf.grad for name, leaf in leaves.items()}


def compare(left, right, tolerance):
    o, S, grads = left
    o_expected, S_expected, grads_expected = right
    torch.testing.assert_close(o.double(), o_expected.double(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(S.double(), S_expected.double(), rtol=tolerance, atol=tolerance)
    for name, expected in grads_expected.items():
        if expected is None:
            assert grads[name] is None or (grads[name] == 0).all(), name
            continue
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(
            grads[name].double() / scale, expected.double() / scale, rtol=tolerance, atol=tolerance, msg=name
        )


def run_rule(name):
    def run(inputs):
        o, state = inputs.run(get_rule(name))
        return o, state["S"]

    return run


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", TOKEN_RULES)
def test_outputs_state_and_gradients_equal_the_recurrence(name, length):
    inputs = random_inputs(get_rule(name), seed=length, leading=(2,), length=length, spread=0.5)
    expected = gradients(inputs, lambda x: recurrence(name, x))
    tolerance = (
        1e-6 if name in ("rope", "gated_delta_product") else 1e-9
    )  # float32 angles; the norm's epsilon
    compare(gradients(inputs, run_rule(name)), expected, tolerance)


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net"])
@pytest.mark.parametrize("length", LENGTHS)
def test_float32_is_within_1e5_of_the_recurrence_in_float64(name, length):
    rule = get_rule(name)
    exact = random_inputs(rule, seed=length, length=length, key_width=16, value_width=16)
    single = random_inputs(
        rule, seed=length, length=length, key_width=16, value_width=16, dtype=torch.float32
    )
    expected = gradients(exact, lambda x: recurrence(name, x))
    compare(gradients(single, run_rule(name)), expected, 1e-5)


@pytest.mark.parametrize("strength", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", TOKEN_RULES)
def test_float32_holds_where_all_tokens_are_the_same(name, strength):
    """Blank tokens are: their keys repeat, and every number on the way to (I + A)⁻¹ must stay small."""
    inputs = random_inputs(get_rule(name), length=100, dtype=torch.float64, spread=0.5)
    features = {n: x[..., :1, :].expand_as(x) for n, x in inputs.features.items()}
    same = replace(
        inputs,
        k=inputs.k[..., :1, :].expand_as(inputs.k),
        beta=torch.full_like(inputs.beta, strength),
        features=features,
    )
    o, S = recurrence(name, same)
    single = replace(
        same.map(lambda x: x.float()), parameters={n: x.float() for n, x in same.parameters.items()}
    )
    found, state = single.run(get_rule(name))
    torch.testing.assert_close(found.double(), o, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["S"].double(), S, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 20, 32, 33, 128])
@pytest.mark.parametrize("strength", [0.5, 0.9, 1.0])
def test_the_inverse_holds_all_digits_where_keys_repeat(size, strength):
    lower = torch.full((2, size, size), strength).tril(-1)
    wanted = torch.linalg.inv(torch.eye(size, dtype=torch.float64) + lower.double())
    found = invert_unit_lower(lower)
    assert ((found - wanted).norm() / wanted.norm()).item() < 1e-6


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 31, 32, 100])
@pytest.mark.parametrize("step", [1e-3, 1.0, 30.0])
def test_products_of_faded_keys_are_those_of_every_pair(length, step):
    """Also where a channel is gone within a few tokens: over 100 of 30 each exp(-faded) has no double."""
    draw = torch.Generator().manual_seed(length)
    drawn = [torch.randn(2, 3, length, 6, generator=draw, dtype=torch.float64) for _ in range(3)]
    q, p, k = (x.requires_grad_() for x in drawn)
    fading = torch.rand(2, 3, length, 6, generator=draw, dtype=torch.float64).requires_grad_()
    faded = (-step * fading).cumsum(-2)
    found = faded_products((q, p), k, faded)
    left = (faded[..., :, None, :] - faded[..., None, :, :]).clamp(max=0).exp()
    wanted = [torch.einsum("...id,...ijd,...jd->...ij", row, left, k).tril() for row in (q, p)]
    weights = torch.randn(length, length, generator=draw, dtype=torch.float64)
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y)
        leaves = (q, p, k, fading)
        gradients = [
            torch.autograd.grad((z * weights).sum(), leaves, retain_graph=True, materialize_grads=True)
            for z in (x, y)
        ]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", TOKEN_RULES)
def test_the_chunk_size_does_not_matter(name):
    inputs = random_inputs(get_rule(name), length=100, spread=0.5)
    o, state = inputs.run(get_rule(name))
    for chunk_size in (1, 7, 16, 64, 128):
        other, other_state = inputs.run(get_rule(name), chunk_size=chunk_size)
        torch.testing.assert_close(other, o, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other_state["S"], state["S"], rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def fla():
    """The plain references of flash-linear-attention; importing it warns where there is no GPU."""
    pytest.importorskip("triton", reason="flash-linear-attention needs triton: pip install triton")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "flash-linear-attention is not installed: pip install 'archer-lab[fla]'"
        delta = pytest.importorskip("fla.ops.delta_rule.naive", reason=reason)
        gated = pytest.importorskip("fla.ops.gated_delta_rule.naive", reason=reason)
    return {"delta": delta, "gated": gated}


@pytest.mark.parametrize("length", [32, 64, 96, 128])
def test_delta_net_equals_flas_chunk_form(fla, length):
    inputs = random_inputs(get_rule("delta_net"), length=length, value_width=8, dtype=torch.float32)

    def run(x):
        return fla["delta"].delta_rule_chunkwise(x.q, x.k, x.v, x.beta[..., 0])

    compare(gradients(inputs, run_rule("delta_net")), gradients(inputs, run), 1e-5)


@pytest.mark.parametrize("length", [1, 33, 63, 100])
def test_delta_net_equals_flas_recurrence(fla, length):
    inputs = random_inputs(get_rule("delta_net"), length=length, value_width=8, dtype=torch.float32)
    o, S = fla["delta"].delta_rule_recurrence(inputs.q, inputs.k, inputs.v, inputs.beta[..., 0])
    ours, state = inputs.run(get_rule("delta_net"))
    torch.testing.assert_close(ours, o, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state["S"], S, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reference", ["naive_recurrent_gated_delta_rule", "naive_chunk_gated_delta_rule"])
@pytest.mark.parametrize("length", [1, 33, 63, 100])
def test_gated_delta_net_equals_flas(fla, length, reference):
    if reference == "naive_chunk_gated_delta_rule" and length % 32:
        length = 64 if length < 64 else 96  # its final state is that of the padded sequence
    inputs = random_inputs(get_rule("gated_delta_net"), length=length, value_width=8, dtype=torch.float32)

    def run(x):
        g = -x.parameters["A_log"].exp() * softplus(x.features["a"] + x.parameters["dt_bias"])
        q, k, v = (y.transpose(1, 2) for y in (x.q, x.k, x.v))
        beta, g = (y[..., 0].transpose(1, 2) for y in (x.beta, g))
        sizes = {"chunk_size": 32} if "chunk" in reference else {}
        o, S = getattr(fla["gated"], reference)(
            q=q, k=k, v=v, beta=beta, g=g, output_final_state=True, **sizes
        )
        return o.transpose(1, 2), S

    compare(gradients(inputs, run_rule("gated_delta_net")), gradients(inputs, run), 1e-5)
