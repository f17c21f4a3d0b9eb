"""Scaled beta on gated_delta_net: a learned ceiling for how much of an error is corrected.

    β' = c β,  c in (0, 2), one per head
"""

import torch
from torch.nn.functional import softplus

from archer.rules import Parameter, wy

parent = "gated_delta_net"
c = Parameter(0.7, within=(0, 2))


def prepare(q, k, v, beta, a, A_log, dt_bias, causal, c):
    beta = c * beta
    faded = (-A_log.exp() * softplus(a + dt_bias)).cumsum(-2)
    decay = (faded - faded.mT).masked_fill(~causal, -torch.inf).exp()
    since_start, to_end = (faded.exp(), (faded[..., -1:, :] - faded).exp())
    return {**wy(k, v, beta, decay=decay.to(k.dtype), k_read=k * since_start.to(k.dtype)), 'q_read': q * since_start.to(q.dtype), 'k_write': k * to_end.to(k.dtype), 'decay': decay.to(q.dtype), 'keep': since_start[..., -1:, :]}
