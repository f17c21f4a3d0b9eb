"""Double beta on gated_delta_net: a write may over-correct, up to turning the stored value around.

    β' = 2 β in (0, 2):  I - β' kᵀk has eigenvalues in (-1, 1)
"""

import torch
from torch.nn.functional import softplus

from archer.rules import wy

parent = "gated_delta_net"


def prepare(q, k, v, beta, a, A_log, dt_bias, causal):
    beta = 2 * beta
    faded = (-A_log.exp() * softplus(a + dt_bias)).cumsum(-2)
    decay = (faded - faded.mT).masked_fill(~causal, -torch.inf).exp()
    since_start, to_end = (faded.exp(), (faded[..., -1:, :] - faded).exp())
    return {**wy(k, v, beta, decay=decay.to(k.dtype), k_read=k * since_start.to(k.dtype)), 'q_read': q * since_start.to(q.dtype), 'k_write': k * to_end.to(k.dtype), 'decay': decay.to(q.dtype), 'keep': since_start[..., -1:, :]}
