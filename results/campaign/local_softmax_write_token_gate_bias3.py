"""Write gate on local_softmax: the token says how much of its error is stored.

    S = S + kᵀ (g e),  g_t = σ(W_g x_t + b)
"""

from archer.rules import Feature

parent = "local_softmax"
g = Feature(within=(0, 1), bias=3.0)


def write(k_write, e, g):
    return k_write.mT @ (g * e)
