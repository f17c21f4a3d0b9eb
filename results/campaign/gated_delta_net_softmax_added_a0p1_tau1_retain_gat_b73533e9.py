"""Sharp mixture on gated_delta_net_softmax_added_a0p1_tau1_retain_gat_3c7cfe7f: softmax weights and raw products, share and temperature learned.

    A = a softmax(mask(τ q kᵀ)) + (1 - a) tril(q kᵀ),  a in (0, 1), τ > 0, one of each per head
"""

import torch

from archer.rules import Parameter

parent = "gated_delta_net_softmax_added_a0p1_tau1_retain_gat_3c7cfe7f"
a_3 = Parameter(0.3, within=(0, 1))
tau_2 = Parameter(1.0, within=(0, torch.inf))


def similarity(scores, causal, a_3, tau_2):
    soft = (tau_2 * scores).masked_fill(~causal, -torch.inf).softmax(-1)
    return a_3 * soft + (1 - a_3) * (scores * causal)
