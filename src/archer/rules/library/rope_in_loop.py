"""RoPE in the loop: queries and keys are rotated after u and w are made from the unrotated keys.

    e = u - w S with k_t,  o = R q S + tril(R q (R k)ᵀ) e,  S = S + (R k)ᵀ e

Source: Su 2021, arXiv:2104.09864, as the history note rope_qk_in_for_loop reads; what is predicted (w S) and
what is written (R k) no longer belong to the same key: it is another model than `rope`
"""

from archer.rules import rotate, wy

parent = "delta_net"
history = ("rope_qk_in_for_loop",)


def prepare(q, k, v, beta, position):
    return {**wy(k, v, beta), "q": rotate(q, position), "k": rotate(k, position)}
