"""Adaptive decay: the state fades before the prediction and again after it, by a factor from the input.

    S' = γ_p S,  e = u - w S',  o = q S' + A e,  S = γ S' + kᵀ e,  γ = σ(a x_t + b) at the chunk's last token
    γ_p is the γ of the chunk before: that one is past when the prediction is made

The fading before the prediction of chunk i + 1 is folded into the end of chunk i, where its γ is known.

Source: history note adaptive_exponential_decay_on_state_before_and_after_prediction_per_chunk
"""

from archer.rules import Feature

parent = "delta_net"
history = ("adaptive_exponential_decay_on_state_before_and_after_prediction_per_chunk",)
fade = Feature(within=(0, 1), bias=4.0)


def retain(S, fade):
    last = fade[..., -1:, :]
    return last * last * S


def write(G, fade):
    return fade[..., -1:, :] * G
