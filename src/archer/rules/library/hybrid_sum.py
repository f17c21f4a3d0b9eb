"""Hybrid sum: softmax weights and the raw products, added.

    A = softmax(mask(q kᵀ)) + tril(q kᵀ)

Source: history note hybrid_softmax_raw_attention, read as a plain sum
"""

import torch

parent = "delta_net"


def similarity(scores, causal):
    return scores.masked_fill(~causal, -torch.inf).softmax(-1) + scores * causal
