"""Softmax with a normalised state: softmax weights, and rows of S brought to one size before each write.

    A = softmax(mask(q kᵀ)),  S = LayerNorm(S) + kᵀ e,  over Dv

Source: a proposal of the history notes; S starts at zero, where LayerNorm is zero too
"""

from torch.nn.functional import layer_norm

parent = "softmax"


def retain(S):
    return layer_norm(S, S.shape[-1:])
