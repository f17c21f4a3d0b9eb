"""Gated DeltaProduct: the state fades once per token and is then written twice, with two keys.

    S' = α_t S_{t-1},  S'' = S' + k_tᵀ β_t (v_t - k_t S'),  S_t = S'' + k'_tᵀ β'_t (v'_t - k'_t S'')
    k', v', β' are linear in x_t, k' of length one;  α_t = exp(-A softplus(W_a x_t + b))

Source: Siems 2025, arXiv:2502.10297, with two Householder factors; the second key and value have no short
convolution
"""

import torch
from torch.nn.functional import normalize, silu, softplus

from archer.rules import Draw, Feature, Layer, Parameter, wy

parent = "delta_net"
layer = Layer(output_gate=True, expand_value=2.0)

a = Feature()
k_second = Feature("Dk")
v_second = Feature("Dv")
beta_second = Feature(within=(0, 1))
A_log = Parameter(Draw(0.0, 16.0, stored="log"))
dt_bias = Parameter(Draw(0.001, 0.1, spacing="log", stored="inverse_softplus"))


def alternate(first, second):
    return torch.stack((first, second.to(first.dtype)), dim=-2).flatten(-3, -2)  # [2C, D]


def prepare(q, k, v, beta, a, k_second, v_second, beta_second, A_log, dt_bias, causal):
    faded = (-A_log.exp() * softplus(a + dt_bias)).cumsum(-2)  # log of the fading since the chunk's start
    twice = alternate(faded, faded)
    keys = alternate(k, normalize(silu(k_second), dim=-1, eps=1e-6))
    v, beta = alternate(v, silu(v_second)), alternate(beta, beta_second)
    past = causal.repeat_interleave(2, -1)  # [C, 2C] a token reads after both of its writes
    between = (twice - twice.mT).masked_fill(~past.repeat_interleave(2, -2), 0.0).exp()
    since_write = (faded - twice.mT).masked_fill(~past, -torch.inf).exp()
    return {
        **wy(keys, v, beta, decay=between.to(k.dtype), k_read=keys * twice.exp().to(k.dtype)),
        "faded_scores": q @ keys.mT * since_write.to(q.dtype),
        "q_read": q * faded.exp().to(q.dtype),
        "k_write": keys * (faded[..., -1:, :] - twice).exp().to(k.dtype),
        "keep": faded[..., -1:, :].exp(),
    }


def similarity(faded_scores):
    return faded_scores
