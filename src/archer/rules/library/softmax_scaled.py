"""Scaled softmax: softmax weights with a learned temperature that starts at √Dk.

    A = softmax(mask(τ √Dk q kᵀ)),  τ > 0, one per head, 1 at the start

Source: a proposal of the history notes; √Dk undoes the scale of q, so the logits start within ±1
"""

import torch

from archer.rules import Parameter

parent = "delta_net"
tau = Parameter(1.0, within=(0, float("inf")))


def similarity(q, scores, causal, tau):
    logits = tau * q.shape[-1] ** 0.5 * scores
    return logits.masked_fill(~causal, -torch.inf).softmax(-1)
