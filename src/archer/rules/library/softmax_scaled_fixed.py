"""Fixed scaled softmax: softmax weights at the temperature √Dk.

    A = softmax(mask(√Dk q kᵀ))

Source: a proposal of the history notes; √Dk undoes the scale of q, so the logits lie within ±1
"""

import torch

parent = "delta_net"


def similarity(q, scores, causal):
    return (q.shape[-1] ** 0.5 * scores).masked_fill(~causal, -torch.inf).softmax(-1)
