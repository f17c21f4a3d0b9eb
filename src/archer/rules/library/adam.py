"""Adam: the write is scaled by its own first and second moments.

    m = β₁ m + (1 - β₁) G,  s = β₂ s + (1 - β₂) G²,  G = kᵀ e
    S = S + η m̂ / √(ŝ + ε),  m̂ = m / (1 - β₁ⁱ),  ŝ = s / (1 - β₂ⁱ) after i chunks

Source: Kingma 2014, arXiv:1412.6980, once per chunk; ε stands inside the root, where it keeps the gradient
of an entry that was never written finite
"""

from archer.rules import Carried, Parameter

parent = "delta_net"
history = ("adam_state_update_in_for_loop", "adam_style_adaptive_state_update_after_output")
EPSILON = 1e-6
eta = Parameter(0.1, within=(0, float("inf")))
beta1 = Parameter(0.9, within=(0, 1))
beta2 = Parameter(0.99, within=(0, 1))
first = Carried()
second = Carried()
count = Carried("1", "1")


def write(G, first, second, count, eta, beta1, beta2):
    count = count + 1
    first = beta1 * first + (1 - beta1) * G
    second = beta2 * second + (1 - beta2) * G * G
    mean = first / (1 - beta1**count)
    square = second / (1 - beta2**count)
    return eta * mean / (square + EPSILON).sqrt(), {"first": first, "second": second, "count": count}
