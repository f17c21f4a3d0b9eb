"""Local softmax: ordinary attention inside the chunk is added to what the state gives.

    o = q S + A e + softmax(mask(q kᵀ)) v,  v before beta

Source: history proposal add_local_softmax_self_attention; q carries its Dk^-½ already
"""

import torch

parent = "delta_net"
history = ("add_local_softmax_self_attention_in_for_loop",)


def read(o, v, scores, causal):
    return o + scores.masked_fill(~causal, -torch.inf).softmax(-1) @ v
