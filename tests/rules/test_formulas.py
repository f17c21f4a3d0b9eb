"""Every variant of the history against its formula, written out chunk by chunk for one head."""

import math

import pytest
import torch
from torch.nn.functional import gelu

from archer.rules import get_rule
from archer.rules.inputs import random_inputs

CHUNK, LENGTH, DK, DV = 32, 100, 8, 6


def softmax_of_the_past(scores):
    rows = [
        torch.cat((row[: t + 1].softmax(0), torch.zeros(len(row) - t - 1))) for t, row in enumerate(scores)
    ]
    return torch.stack(rows)


def weights_of(name, scores, p):
    raw, soft = scores.tril(), softmax_of_the_past(scores)
    tau = p.get("tau")
    return {
        "sigmoid_gate": lambda: scores.tril() / (1 + (-scores).exp()),
        "softmax": lambda: soft,
        "softmax_decay": lambda: soft,
        "softmax_layernorm_state": lambda: soft,
        "softmax_scaled": lambda: softmax_of_the_past(tau * math.sqrt(DK) * scores),
        "softmax_scaled_fixed": lambda: softmax_of_the_past(math.sqrt(DK) * scores),
        "cosine_softmax": lambda: softmax_of_the_past(
            tau * math.sqrt(DK) * scores
        ),  # q and k have length one
        "cosine_softmax_error_gated": lambda: softmax_of_the_past(tau * math.sqrt(DK) * scores),
        "hybrid": lambda: p["a"] * soft + (1 - p["a"]) * raw,
        "hybrid_half": lambda: (soft + raw) / 2,
        "hybrid_sum": lambda: soft + raw,
    }.get(name, lambda: raw)()


def normalised(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()


def written(name, k, e, p, memory):
    """What is added to S, and what is carried to the next chunk in `memory`."""
    if name in ("error_gated", "cosine_softmax_error_gated"):
        gates = [1 / (1 + (-row.abs().mean()).exp()) for row in e]
        return k.mT @ torch.stack([gate * row for gate, row in zip(gates, e, strict=True)])
    if name == "topk_error":
        largest = sorted(range(len(e)), key=lambda t: -e[t].norm().item())[:8]
        return sum(torch.outer(k[t], e[t]) for t in largest)
    G = k.mT @ e
    if name == "layernorm_write":
        return normalised(G).clamp_min(0)
    if name == "momentum":
        memory["M"] = p["mu"] * memory.get("M", 0) + G
        return memory["M"]
    if name == "adam":
        i = memory["i"] = memory.get("i", 0) + 1
        memory["m"] = p["beta1"] * memory.get("m", 0) + (1 - p["beta1"]) * G
        memory["s"] = p["beta2"] * memory.get("s", 0) + (1 - p["beta2"]) * G**2
        mean, square = memory["m"] / (1 - p["beta1"] ** i), memory["s"] / (1 - p["beta2"] ** i)
        return p["eta"] * mean / (square + 1e-6).sqrt()
    if name == "rmsprop":
        memory["s"] = p["alpha"] * memory.get("s", 0) + (1 - p["alpha"]) * G**2
        return p["eta"] * G / (memory["s"] + 1e-6).sqrt()
    return G


def by_formula(name, x):
    """o [T, Dv] and S of one sequence and head, from RULES' formulas."""
    p = {key: value.item() for key, value in x.parameters.items()}
    S, memory, outputs, before = torch.zeros(DK, DV, dtype=torch.float64), {}, [], 1.0
    for start in range(0, LENGTH, CHUNK):
        q, k, v, beta = (y[start : start + CHUNK] for y in (x.q / math.sqrt(DK), x.k, x.v, x.beta))
        size = len(q)
        T = torch.linalg.inv(torch.eye(size, dtype=q.dtype) + (beta * k @ k.mT).tril(-1))
        u, w = T @ (beta * v), T @ (beta * k)
        if name == "adaptive_decay":
            S = before * S
        e = u - w @ S
        if name == "gelu_error":
            e = gelu(e)
        o = q @ S + weights_of(name, q @ k.mT, p) @ e
        if name == "local_softmax":
            o = o + softmax_of_the_past(q @ k.mT) @ v
        if name == "decay":
            S = p["gamma"] * S
        if name == "softmax_decay":
            S = (1 - p["alpha"]) * S
        if name == "softmax_layernorm_state":
            S = normalised(S)
        if name == "adaptive_decay":
            before = x.features["fade"][start + size - 1]
            S = before * S
        S = S + written(name, k, e, p, memory)
        outputs.append(o)
    return torch.cat(outputs), S


FORMULAS = (
    *(
        "delta_net",
        "decay",
        "adaptive_decay",
        "momentum",
        "adam",
        "rmsprop",
        "layernorm_write",
        "error_gated",
    ),
    *("topk_error", "gelu_error", "sigmoid_gate", "softmax", "softmax_scaled", "softmax_scaled_fixed"),
    *("cosine_softmax", "cosine_softmax_error_gated", "hybrid", "hybrid_half", "hybrid_sum", "local_softmax"),
    *("softmax_decay", "softmax_layernorm_state"),
)


@pytest.mark.parametrize("spread", [0.0, 0.7])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_rule_computes_its_formula(name, spread):
    sizes = {"leading": (), "length": LENGTH, "key_width": DK, "value_width": DV}
    inputs = random_inputs(get_rule(name), seed=3, spread=spread, **sizes)
    o, state = inputs.run(get_rule(name))
    expected, S = by_formula(name, inputs)
    torch.testing.assert_close(o, expected, rtol=1e-8, atol=1e-8)
    if name != "adaptive_decay":
        torch.testing.assert_close(state["S"], S, rtol=1e-8, atol=1e-8)


def test_adaptive_decay_keeps_its_state_as_the_next_chunk_will_read_it():
    """The fading before the next prediction is already in S: reading it needs no gate of the chunk before."""
    rule = get_rule("adaptive_decay")
    inputs = random_inputs(rule, leading=(), length=64)
    _, first = inputs.tokens(0, 32).run(rule)
    _, plain = inputs.tokens(0, 32).run(get_rule("delta_net"))
    torch.testing.assert_close(first["S"], inputs.features["fade"][31] * plain["S"])


def test_rope_in_loop_predicts_with_unrotated_keys():
    """At position 0 both readings are delta_net; `rope` turns w as well, `rope_in_loop` does not."""
    names = ("delta_net", "rope", "rope_in_loop")
    inputs = random_inputs(get_rule("delta_net"), leading=(), length=64)
    o = {name: inputs.run(get_rule(name))[0] for name in names}
    for name in names[1:]:
        torch.testing.assert_close(o[name][0], o["delta_net"][0])
    one_head = inputs.map(lambda x: x[:33])
    S = {name: one_head.run(get_rule(name))[1]["S"] for name in names}
    assert not torch.allclose(S["rope"], S["rope_in_loop"], atol=1e-3)


def test_rope_sees_only_distances():
    """Moving a sequence along by whole chunks of nothing changes no output."""
    rule = get_rule("rope")
    inputs = random_inputs(rule, leading=(), length=64)
    moved = inputs.map(lambda x: torch.cat((torch.zeros(32, x.shape[-1], dtype=x.dtype), x)))
    torch.testing.assert_close(moved.run(rule)[0][32:], inputs.run(rule)[0], rtol=1e-5, atol=1e-5)
