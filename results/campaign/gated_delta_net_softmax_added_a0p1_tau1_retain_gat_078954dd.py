"""Self bonus on gated_delta_net_softmax_added_a0p1_tau1_retain_gat_3c7cfe7f: the current token's own product is weighed apart.

    A = tril(q kᵀ) + b diag(q kᵀ),  b one per head
"""

from archer.rules import Parameter

parent = "gated_delta_net_softmax_added_a0p1_tau1_retain_gat_3c7cfe7f"
b = Parameter(2.0)


def similarity(scores, causal, b):
    return scores * causal + b * scores * (causal & causal.mT)
