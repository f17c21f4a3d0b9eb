"""RoPE: queries and keys are rotated by their position before u and w are made.

    q_t = R_t q_t,  k_t = R_t k_t,  then as delta_net

Source: Su 2021, arXiv:2104.09864; a rotation keeps lengths, so before or after the L2 norm is the same
"""

from archer.rules import rotate, wy

parent = "delta_net"
history = ("add_rope_to_keys_and_queries_before_l2norm",)


def prepare(q, k, v, beta, position):
    q, k = rotate(q, position), rotate(k, position)
    return {**wy(k, v, beta), "q": q, "k": k}
