"""Even hybrid: half softmax weights, half the raw products.

    A = ½ softmax(mask(q kᵀ)) + ½ tril(q kᵀ)

Source: history note hybrid_softmax_raw_attention, read with a fixed share
"""

import torch

parent = "delta_net"


def similarity(scores, causal):
    return 0.5 * scores.masked_fill(~causal, -torch.inf).softmax(-1) + 0.5 * (scores * causal)
