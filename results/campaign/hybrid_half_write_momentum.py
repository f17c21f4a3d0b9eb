"""hybrid_half+write=momentum.

    write of momentum: M = μ M + kᵀ e,  S = S + M,  μ in (0, 1), one per head

Source: composed on hybrid_half (the momentum of Titans (Behrouz 2024, arXiv:2501.00663), once per chunk; e does not know of the pending M, so a large μ overshoots)
"""

from archer.rules import Carried, Parameter

parent = "hybrid_half"
M = Carried()
mu = Parameter(0.5, within=(0, 1))


def write(G, M, mu):
    M = mu * M + G
    return M, {"M": M}
