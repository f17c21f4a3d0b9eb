"""Error gain on gated_delta_net_similarity_hybrid: what is corrected is scaled by a learned factor.

    e = c (u - w S),  c > 0, one per head
"""

import torch

from archer.rules import Parameter

parent = "gated_delta_net_similarity_hybrid"
gain = Parameter(0.7, within=(0, torch.inf))


def correct(e, gain):
    return gain * e
