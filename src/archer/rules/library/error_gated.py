"""Error-gated: a token with a large error writes more of it.

    S = S + kᵀ (e · σ(mean |e|)),  one gate per token

Source: history note error_gated_state_update; zero error still halves the write, σ(0) = ½
"""

parent = "delta_net"
history = ("error_gated_state_update_in_for_loop",)


def write(k_write, e):
    return k_write.mT @ (e * e.abs().mean(-1, keepdim=True).sigmoid())
