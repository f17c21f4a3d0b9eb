"""Comba: the state predicts with a weakened key, and the query is corrected by the same key.

    S_t = α_t S_{t-1} + k_tᵀ β_t (v_t - α_t p_t S_{t-1}),  p_t = σ(b) k_t,  o_t = Dk^-½ (q_t - d p_t) S_t
    α_t = exp(-A softplus(W_a x_t + c))

Source: Hu 2025, arXiv:2506.02475; d starts at 0.02, the value given there for small models, and the
corrected query is not normalised again
"""

import torch
from torch.nn.functional import softplus

from archer.rules import Draw, Feature, Layer, Parameter, invert_unit_lower

parent = "delta_net"
layer = Layer(output_gate=True, expand_value=2.0)

a = Feature()
A_log = Parameter(Draw(0.0, 16.0, stored="log"))
dt_bias = Parameter(Draw(0.001, 0.1, spacing="log", stored="inverse_softplus"))
feedback = Parameter(0.73, within=(0, 1))
correction = Parameter(0.02)


def prepare(q, k, v, beta, a, A_log, dt_bias, feedback, correction, causal):
    faded = (-A_log.exp() * softplus(a + dt_bias)).cumsum(-2)  # log of the fading since the chunk's start
    decay = (faded - faded.mT).masked_fill(~causal, -torch.inf).exp()
    since_start, to_end = faded.exp(), (faded[..., -1:, :] - faded).exp()
    p = feedback * k
    q = q - correction * k.shape[-1] ** -0.5 * p
    inverse = invert_unit_lower((beta * p @ k.mT * decay).tril(-1)).to(v.dtype)
    return {
        "q": q,
        "u": inverse @ (beta * v),
        "w": inverse @ (beta * p * since_start),
        "q_read": q * since_start,
        "k_write": k * to_end.to(k.dtype),
        "decay": decay.to(k.dtype),
        "keep": since_start[..., -1:, :],
    }
