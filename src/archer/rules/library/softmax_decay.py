"""Softmax with decay: softmax weights in the chunk, and a state that fades a little.

    A = softmax(mask(q kᵀ)),  S = (1 - α) S + kᵀ e,  α in (0, 1), one per head

Source: a proposal of the history notes, with α about 0.1
"""

from archer.rules import Parameter

parent = "softmax"
alpha = Parameter(0.1, within=(0, 1))


def retain(S, alpha):
    return (1 - alpha) * S
