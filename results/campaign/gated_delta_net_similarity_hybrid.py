"""gated_delta_net+similarity=hybrid.

    similarity of hybrid: A = a softmax(mask(q kᵀ)) + (1 - a) tril(q kᵀ),  a in (0, 1), one per head

Source: composed on gated_delta_net (history note hybrid_softmax_raw_attention)
"""

import torch
from archer.rules import Parameter

parent = "gated_delta_net"
hybrid_a = Parameter(0.5, within=(0, 1))


def similarity(scores, causal, hybrid_a):
    return hybrid_a * scores.masked_fill(~causal, -torch.inf).softmax(-1) + (1 - hybrid_a) * (scores * causal)
