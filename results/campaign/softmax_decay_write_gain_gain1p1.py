"""Write gain on softmax_decay: what enters the state is scaled by a learned factor.

    S = S + c kᵀ e,  c > 0, one per head
"""

import torch

from archer.rules import Parameter

parent = "softmax_decay"
gain = Parameter(1.1, within=(0, torch.inf))


def write(G, gain):
    return gain * G
