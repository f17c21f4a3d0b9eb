"""Error-gated cosine softmax: cosine softmax weights, and tokens with a large error write more.

    A = softmax(mask(τ cos(q, k))),  S = S + kᵀ (e · σ(mean |e|))

Source: history note cosine_softmax_attention_error_gated_update: `cosine_softmax` and `error_gated` together
"""

parent = "cosine_softmax"
history = ("cosine_softmax_attention_error_gated_update_in_for_loop",)


def write(k_write, e):
    return k_write.mT @ (e * e.abs().mean(-1, keepdim=True).sigmoid())
