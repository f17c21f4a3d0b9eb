"""Added softmax on gated_delta_net: raw products stay whole, a learned amount of softmax comes on top.

    A = tril(q kᵀ) + a softmax(mask(τ q kᵀ)),  a, τ > 0, one of each per head
"""

import torch

from archer.rules import Parameter

parent = "gated_delta_net"
a_2 = Parameter(0.1, within=(0, torch.inf))
tau = Parameter(1.0, within=(0, torch.inf))


def similarity(scores, causal, a_2, tau):
    soft = (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
    return scores * causal + a_2 * soft
