"""Decay: the state forgets a little before each write.

    S = γ S + kᵀ e,  γ in (0, 1), one per head

Source: the retention of RetNet (Sun 2023, arXiv:2307.08621), once per chunk
"""

from archer.rules import Parameter

parent = "delta_net"
history = ("decay_state_update_in_for_loop", "add_exponential_decay_to_S_before_update_in_chunk_loop")
gamma = Parameter(0.98, within=(0, 1))


def retain(S, gamma):
    return gamma * S
