"""Gated DeltaNet: every token first fades the whole state by its own factor, then writes.

    α_t = exp(-A softplus(W_a x_t + b)),  S_t = α_t S_{t-1} + k_tᵀ β_t (v_t - α_t k_t S_{t-1})

Source: Yang 2024, arXiv:2412.06464
"""

import torch
from torch.nn.functional import softplus

from archer.rules import Draw, Feature, Layer, Parameter, wy

parent = "delta_net"
history = ("gated_delta_net_4layer",)
layer = Layer(output_gate=True, expand_value=2.0)

a = Feature()
A_log = Parameter(Draw(0.0, 16.0, stored="log"))
dt_bias = Parameter(Draw(0.001, 0.1, spacing="log", stored="inverse_softplus"))


def prepare(q, k, v, beta, a, A_log, dt_bias, causal):
    faded = (-A_log.exp() * softplus(a + dt_bias)).cumsum(-2)  # log of the fading since the chunk's start
    decay = (faded - faded.mT).masked_fill(~causal, -torch.inf).exp()
    since_start, to_end = faded.exp(), (faded[..., -1:, :] - faded).exp()
    return {
        **wy(k, v, beta, decay=decay.to(k.dtype), k_read=k * since_start.to(k.dtype)),
        "q_read": q * since_start.to(q.dtype),
        "k_write": k * to_end.to(k.dtype),
        "decay": decay.to(q.dtype),
        "keep": since_start[..., -1:, :],
    }
