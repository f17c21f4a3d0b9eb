"""Mamba-2: a fading state that is written without looking at what it holds.

    S_t = α_t S_{t-1} + k_tᵀ Δ_t v_t,  Δ_t = softplus(W_a x_t + b),  α_t = exp(-A Δ_t)

Source: Dao 2024, arXiv:2405.21060; the state-space dual form, with the layer and the normalised q and k of
the delta rule around it, and without its skip D; beta is not used
"""

import torch
from torch.nn.functional import softplus

from archer.rules import Draw, Feature, Layer, Parameter

parent = "delta_net"
layer = Layer(output_gate=True, expand_value=2.0)

a = Feature()
A_log = Parameter(Draw(1.0, 16.0, stored="log"))
dt_bias = Parameter(Draw(0.001, 0.1, spacing="log", stored="inverse_softplus"))


def prepare(q, k, v, a, A_log, dt_bias, causal):
    step = softplus(a + dt_bias)
    faded = (-A_log.exp() * step).cumsum(-2)  # log of the fading since the chunk's start
    decay = (faded - faded.mT).masked_fill(~causal, -torch.inf).exp()
    since_start, to_end = faded.exp(), (faded[..., -1:, :] - faded).exp()
    return {
        "u": step.to(v.dtype) * v,
        "w": torch.zeros_like(k),
        "q_read": q * since_start.to(q.dtype),
        "k_write": k * to_end.to(k.dtype),
        "decay": decay.to(q.dtype),
        "keep": since_start[..., -1:, :],
    }
