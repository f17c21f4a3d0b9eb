"""KDA: Gated DeltaNet with a decay of its own for every channel of the key.

    S_t = Diag(α_t) S_{t-1} + k_tᵀ β_t (v_t - k_t Diag(α_t) S_{t-1})
    α_t = exp(-A softplus(W_a x_t + b)),  Dk numbers per token

Products of a query and a key are faded channel by channel, for every pair of tokens of a chunk: exact where
exp(-fading) would overflow, at the cost of `[C, C, Dk]` numbers per chunk.

Source: Kimi Team 2025, arXiv:2510.26692
"""

import torch
from torch.nn.functional import softplus

from archer.rules import Draw, Feature, Layer, Parameter, invert_unit_lower

parent = "delta_net"
layer = Layer(output_gate=True)

a = Feature("Dk")
A_log = Parameter(Draw(1.0, 16.0, stored="log"))
dt_bias = Parameter(Draw(0.001, 0.1, spacing="log", stored="inverse_softplus"), columns="Dk")


def prepare(q, k, v, beta, a, A_log, dt_bias, causal):
    faded = (-A_log.exp() * softplus(a + dt_bias)).cumsum(-2)  # [C, Dk] log of the fading since the start
    between = faded.unsqueeze(-2) - faded.unsqueeze(-3)  # [C, C, Dk] from column to row
    faded_k = between.masked_fill(~causal.unsqueeze(-1), -torch.inf).exp().to(k.dtype) * k.unsqueeze(-3)
    overlap = (beta * k).unsqueeze(-2) * faded_k
    inverse = invert_unit_lower(overlap.sum(-1).tril(-1)).to(v.dtype)
    since_start, to_end = faded.exp(), (faded[..., -1:, :] - faded).exp()
    return {
        "u": inverse @ (beta * v),
        "w": inverse @ (beta * k * since_start),
        "faded_scores": (q.unsqueeze(-2) * faded_k).sum(-1),
        "q_read": q * since_start,
        "k_write": k * to_end.to(k.dtype),
        "keep": since_start[..., -1:, :].mT,
    }


def similarity(faded_scores):
    return faded_scores
