"""RMSprop: every entry of the write is divided by its recent size.

    s = α s + (1 - α) G²,  S = S + η G / √(s + ε),  G = kᵀ e

Source: Tieleman & Hinton 2012, Lecture 6.5, once per chunk; a write without its scale cannot correct exactly
"""

from archer.rules import Carried, Parameter

parent = "delta_net"
history = ("rmsprop_state_update_in_for_loop",)
EPSILON = 1e-6
eta = Parameter(0.05, within=(0, float("inf")))
alpha = Parameter(0.9, within=(0, 1))
second = Carried()


def write(G, second, eta, alpha):
    second = alpha * second + (1 - alpha) * G * G
    return eta * G / (second + EPSILON).sqrt(), {"second": second}
