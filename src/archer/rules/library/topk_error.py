"""Top-k error: only the tokens with the largest errors of a chunk are written.

    S = S + kᵀ (m · e),  m_t = 1 for the K largest |e_t| of the chunk, else 0

Source: history note topk_error_update; it chooses with the whole chunk in view, so it feeds S and never o
"""

parent = "delta_net"
history = ("topk_error_update_in_for_loop",)
KEPT = 8


def write(k_write, e):
    size = e.square().sum(-1, keepdim=True)
    largest = size.topk(min(KEPT, e.shape[-2]), dim=-2).indices
    chosen = e.new_zeros(size.shape).scatter(-2, largest, 1.0)
    return k_write.mT @ (chosen * e)
