"""Sharp softmax on hybrid_sum: weights inside the chunk are a softmax with a learned temperature.

    A = softmax(mask(τ q kᵀ)),  τ > 0, one per head
"""

import torch

from archer.rules import Parameter

parent = "hybrid_sum"
tau = Parameter(8.0, within=(0, torch.inf))


def similarity(scores, causal, tau):
    return (tau * scores).masked_fill(~causal, -torch.inf).softmax(-1)
