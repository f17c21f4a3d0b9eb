"""Momentum: writes carry on into the chunks that follow.

    M = μ M + kᵀ e,  S = S + M,  μ in (0, 1), one per head

Source: the momentum of Titans (Behrouz 2024, arXiv:2501.00663), once per chunk; e does not know of the
pending M, so a large μ overshoots
"""

from archer.rules import Carried, Parameter

parent = "delta_net"
history = ("momentum_state_update_in_for_loop", "add_momentum_to_state_update_after_output")
mu = Parameter(0.5, within=(0, 1))
M = Carried()


def write(G, M, mu):
    M = mu * M + G
    return M, {"M": M}
