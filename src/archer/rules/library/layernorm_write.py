"""LayerNorm write: only the positive part of the normalised write is added.

    S = S + relu(LayerNorm(kᵀ e)),  over Dv

Source: history note layernorm_state_update; the write has no negative entries, so nothing can be erased
"""

from torch.nn.functional import layer_norm

parent = "delta_net"
history = ("layernorm_state_update_in_for_loop",)


def write(G):
    return layer_norm(G, G.shape[-1:]).relu()
