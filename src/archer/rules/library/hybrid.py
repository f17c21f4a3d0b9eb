"""Hybrid: softmax weights and the raw products, mixed by a learned share.

    A = a softmax(mask(q kᵀ)) + (1 - a) tril(q kᵀ),  a in (0, 1), one per head

Source: history note hybrid_softmax_raw_attention
"""

import torch

from archer.rules import Parameter

parent = "delta_net"
history = ("hybrid_softmax_raw_attention_in_for_loop",)
a = Parameter(0.5, within=(0, 1))


def similarity(scores, causal, a):
    return a * scores.masked_fill(~causal, -torch.inf).softmax(-1) + (1 - a) * (scores * causal)
