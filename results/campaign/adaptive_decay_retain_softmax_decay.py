"""adaptive_decay+retain=softmax_decay.

    retain of softmax_decay: A = softmax(mask(q kᵀ)),  S = (1 - α) S + kᵀ e,  α in (0, 1), one per head

Source: composed on adaptive_decay (a proposal of the history notes, with α about 0.1)
"""

from archer.rules import Parameter

parent = "adaptive_decay"
alpha = Parameter(0.1, within=(0, 1))


def retain(S, alpha):
    return (1 - alpha) * S
