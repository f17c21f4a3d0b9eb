"""Cosine softmax: a softmax over the cosines of queries and keys, with a learned temperature.

    A = softmax(mask(τ cos(q, k))),  τ > 0, one per head

Source: Liu 2021, arXiv:2111.09883, where τ starts at 10 too; without τ it is close to `softmax`
"""

import torch

from archer.rules import Parameter

parent = "delta_net"
history = ("cosine_softmax_attention_in_for_loop",)
tau = Parameter(10.0, within=(0, float("inf")))


def similarity(q, k, scores, causal, tau):
    lengths = (q.square().sum(-1, keepdim=True) * k.square().sum(-1).unsqueeze(-2) + 1e-12).sqrt()
    return (tau * scores / lengths).masked_fill(~causal, -torch.inf).softmax(-1)
