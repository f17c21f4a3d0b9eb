"""gated_delta_net_softmax_added_a0p1_tau1+retain=adaptive_decay.

    retain of adaptive_decay: S' = γ_p S,  e = u - w S',  o = q S' + A e,  S = γ S' + kᵀ e,  γ = σ(a x_t + b) at the chunk's last token
        γ_p is the γ of the chunk before: that one is past when the prediction is made

Source: composed on gated_delta_net_softmax_added_a0p1_tau1 (history note adaptive_exponential_decay_on_state_before_and_after_prediction_per_chunk)
"""

from archer.rules import Feature

parent = "gated_delta_net_softmax_added_a0p1_tau1"
fade = Feature(within=(0, 1), bias=4.0)


def retain(S, fade):
    last = fade[..., -1:, :]
    return last * last * S
