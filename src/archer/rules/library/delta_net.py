"""DeltaNet: every write corrects what the state already holds for its key.

    S = S + kᵀ (u - w S),  o = q S + tril(q kᵀ) (u - w S)

Source: Yang 2024, arXiv:2406.06484
"""

from archer.rules import wy

history = ("delta_net_4layer",)


def prepare(k, v, beta):
    return wy(k, v, beta)


def similarity(scores, causal):
    return scores * causal


def correct(e):
    return e


def read(o):
    return o


def retain(S):
    return S


def write(G):
    return G
