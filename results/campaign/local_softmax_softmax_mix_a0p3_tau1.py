"""Sharp mixture on local_softmax: softmax weights and raw products, share and temperature learned.

    A = a softmax(mask(τ q kᵀ)) + (1 - a) tril(q kᵀ),  a in (0, 1), τ > 0, one of each per head
"""

import torch

from archer.rules import Parameter

parent = "local_softmax"
a = Parameter(0.3, within=(0, 1))
tau = Parameter(1.0, within=(0, torch.inf))


def similarity(scores, causal, a, tau):
    soft = (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
    return a * soft + (1 - a) * (scores * causal)
