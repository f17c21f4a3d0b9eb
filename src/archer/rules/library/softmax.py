"""Softmax: inside the chunk, weights are a softmax over the past.

    A = softmax(mask(q kᵀ))

Source: Vaswani 2017, arXiv:1706.03762; with q scaled and q, k normalised the logits lie within ±Dk^-½,
so this is close to a uniform average
"""

import torch

parent = "delta_net"
history = (
    "softmax_attention_in_for_loop",
    "add_softmax_to_intra_chunk_attention_in_for_loop",
    "softmax_after_attn",
)


def similarity(scores, causal):
    return scores.masked_fill(~causal, -torch.inf).softmax(-1)
