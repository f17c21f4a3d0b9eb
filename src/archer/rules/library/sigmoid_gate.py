"""Sigmoid gate: every product of query and key is gated by its own sigmoid.

    A = tril(s · σ(s)),  s = q kᵀ

Source: history note sigmoid_similarity_gate; |s| is at most Dk^-½, so this is close to s / 2
"""

parent = "delta_net"
history = ("sigmoid_similarity_gate_in_for_loop",)


def similarity(scores, causal):
    return scores * scores.sigmoid() * causal
