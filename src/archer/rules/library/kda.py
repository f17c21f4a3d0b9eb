"""KDA: Gated DeltaNet with a decay of its own for every channel of the key.

    S_t = Diag(α_t) S_{t-1} + k_tᵀ β_t (v_t - k_t Diag(α_t) S_{t-1})
    α_t = exp(-A softplus(W_a x_t + b)),  Dk numbers per token

Source: Kimi Team 2025, arXiv:2510.26692
"""

from torch.nn.functional import softplus

from archer.rules import Draw, Feature, Layer, Parameter, faded_products, invert_unit_lower

parent = "delta_net"
layer = Layer(output_gate=True)

a = Feature("Dk")
A_log = Parameter(Draw(1.0, 16.0, stored="log"))
dt_bias = Parameter(Draw(0.001, 0.1, spacing="log", stored="inverse_softplus"), columns="Dk")


def prepare(q, k, v, beta, a, A_log, dt_bias):
    faded = (-A_log.exp() * softplus(a + dt_bias)).cumsum(-2)  # [C, Dk] log of the fading since the start
    faded_scores, overlap = faded_products((q, beta * k), k, faded)
    inverse = invert_unit_lower(overlap.tril(-1)).to(v.dtype)
    since_start, to_end = faded.exp(), (faded[..., -1:, :] - faded).exp()
    return {
        "u": inverse @ (beta * v),
        "w": inverse @ (beta * k * since_start),
        "faded_scores": faded_scores,
        "q_read": q * since_start,
        "k_write": k * to_end.to(k.dtype),
        "keep": since_start[..., -1:, :].mT,
    }


def similarity(faded_scores):
    return faded_scores
