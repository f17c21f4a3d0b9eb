"""Token mixers to compare with that are no delta rules: multi-head softmax attention, GLA and Mamba.

Each maps [B, T, D] to [B, T, D], is causal, takes any length T, and learns about 4 D² numbers, as the layer
of a delta rule does. No buffers, nothing in place, no control flow that depends on values: they run under
`torch.func.vmap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from archer.errors import UserError, unknown
from archer.rules import rotate

CHUNK = 16
"""Tokens handled together by GLA and Mamba; the result does not depend on it."""


class SoftmaxAttention(nn.Module):
    """Multi-head attention with rotary positions: softmax(mask(q kᵀ / √d)) v.

    Source: Vaswani 2017, arXiv:1706.03762; Su 2021, arXiv:2104.09864. 4 D² parameters; time and memory grow
    with T².
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        _check_heads(width, heads, even=True)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] to [B, T, D]."""
        q, k, v = (_by_head(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        position = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None]
        scores = rotate(q, position) @ rotate(k, position).mT * q.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        return self.out(_join_heads(scores.masked_fill(future, -torch.inf).softmax(-1).to(v.dtype) @ v))


class GatedLinearAttention(nn.Module):
    """GLA: S_t = Diag(α_t) S_{t-1} + k_tᵀ v_t, o_t = Dk^-½ q_t S_t, α_t = σ(x_t W_a + b)^(1/16) in Dk.

    Source: Yang 2023, arXiv:2312.06635, with its defaults: keys of half the width, a gate of rank 16, output
    norm and SiLU gate, no short convolution. 4 D² parameters and 24 D for the gate.
    """

    def __init__(self, width: int, heads: int, gate_rank: int = 16) -> None:
        super().__init__()
        _check_heads(width, 2 * heads)
        self.heads, self.key_width = heads, width // 2
        self.qk = nn.Linear(width, 2 * self.key_width, bias=False)
        self.vg = nn.Linear(width, 2 * width, bias=False)
        self.gate = nn.Sequential(
            nn.Linear(width, gate_rank, bias=False), nn.Linear(gate_rank, self.key_width)
        )
        self.norm = nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] to [B, T, D]."""
        q, k = (_by_head(part, self.heads) for part in self.qk(x).chunk(2, dim=-1))
        value, output_gate = self.vg(x).chunk(2, dim=-1)
        log_fade = functional.logsigmoid(_wide(_by_head(self.gate(x), self.heads))) / 16
        o = fading_attention(q * q.shape[-1] ** -0.5, k, _by_head(value, self.heads), log_fade)
        o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * self.norm
        return self.out((_join_heads(o) * functional.silu(_wide(output_gate))).to(x.dtype))


class Mamba(nn.Module):
    """Mamba: h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t h_t + D u_t per channel, Δ, B, C from u_t.

    Source: Gu 2023, arXiv:2312.00752, with N = 16 numbers of state per channel, convolution of 4, and the
    rank of Δ as there; the inner width is what makes it 4 D² parameters.
    """

    def __init__(self, width: int, state: int = 16) -> None:
        super().__init__()
        rank = -(-width // 16)
        per_channel = 3 * width + 2 * rank + 3 * state + 7
        self.inner, self.state, self.rank = max(8, round(4 * width**2 / per_channel / 8) * 8), state, rank
        self.into = nn.Linear(width, 2 * self.inner, bias=False)
        self.conv = nn.Parameter(torch.empty(4, self.inner).uniform_(-0.5, 0.5))
        self.conv_bias = nn.Parameter(torch.empty(self.inner).uniform_(-0.5, 0.5))
        self.select = nn.Linear(self.inner, rank + 2 * state, bias=False)
        self.step = nn.Linear(rank, self.inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().expand(self.inner, state).clone())
        self.skip = nn.Parameter(torch.ones(self.inner))
        self.out = nn.Linear(self.inner, width, bias=False)
        self._first_steps()

    def _first_steps(self) -> None:
        """Δ starts between 0.001 and 0.1, evenly in the logarithm."""
        first = torch.exp(math.log(1e-3) + torch.rand(self.inner) * math.log(100))
        with torch.no_grad():
            self.step.bias.copy_(first.expm1().log())
            self.step.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] to [B, T, D]."""
        u, gate = self.into(x).chunk(2, dim=-1)
        u = functional.silu(self._convolve(u))
        rank, B, C = self.select(u).split((self.rank, self.state, self.state), dim=-1)
        delta = _wide(functional.softplus(self.step(rank)))
        u, B, C = _wide(u), _wide(B), _wide(C)
        fade = (delta[..., None] * -self.A_log.exp()).exp()
        added = (delta * u)[..., None] * B[..., None, :]
        h = linear_recurrence(fade.flatten(-2), added.flatten(-2)).unflatten(-1, (self.inner, self.state))
        y = (h @ C[..., None]).squeeze(-1) + self.skip * u
        return self.out((y * functional.silu(_wide(gate))).to(x.dtype))

    def _convolve(self, u: Tensor) -> Tensor:
        length, padded = u.shape[-2], functional.pad(u, (0, 0, 3, 0))
        taps = [padded[..., tap : tap + length, :] * self.conv[tap] for tap in range(4)]
        return taps[0] + taps[1] + taps[2] + taps[3] + self.conv_bias


BASELINES: dict[str, Callable[[int, int], nn.Module]] = {
    "attention": SoftmaxAttention,
    "gla": GatedLinearAttention,
    "mamba": lambda width, heads: Mamba(width),
}
"""Makers by name: (width, heads) to a module."""


def baseline(name: str, width: int, heads: int = 4) -> nn.Module:
    """A baseline token mixer by name. Raises UserError with the nearest names; Mamba has no heads."""
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    return BASELINES[name](width, heads)


def fading_attention(q: Tensor, k: Tensor, v: Tensor, log_fade: Tensor) -> Tensor:
    """o_t = q_t S_t with S_t = Diag(exp(log_fade_t)) S_{t-1} + k_tᵀ v_t, in float32 at least.

    q, k, log_fade [..., T, Dk], v [..., T, Dv]. The fading between two tokens is computed for each pair
    and channel, so that nothing overflows however strong it is.
    """
    q, k, v = _wide(q), _wide(k), _wide(v)
    S = (k[..., :1, :] * 0).mT @ v[..., :1, :]
    outputs = []
    for start in range(0, q.shape[-2], CHUNK):
        now = slice(start, start + CHUNK)
        o, S = _fading_chunk(q[..., now, :], k[..., now, :], v[..., now, :], log_fade[..., now, :], S)
        outputs.append(o)
    return torch.cat(outputs, dim=-2)


def _fading_chunk(q: Tensor, k: Tensor, v: Tensor, log_fade: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    faded = log_fade.cumsum(-2)
    future = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    between = (faded.unsqueeze(-2) - faded.unsqueeze(-3)).masked_fill(future[..., None], -torch.inf).exp()
    weights = (q.unsqueeze(-2) * between * k.unsqueeze(-3)).sum(-1)
    o = (q * faded.exp()) @ S + weights @ v
    to_end = (faded[..., -1:, :] - faded).exp()
    return o, faded[..., -1:, :].exp().mT * S + (k * to_end).mT @ v


def linear_recurrence(fade: Tensor, added: Tensor) -> Tensor:
    """h_t = fade_t h_{t-1} + added_t for every channel, h_0 = 0: [..., T, E] to [..., T, E].

    Inside a chunk by doubling: after each step a token knows twice as many of its predecessors.
    """
    h, outputs = added[..., :1, :] * 0, []
    for start in range(0, fade.shape[-2], CHUNK):
        a, b = fade[..., start : start + CHUNK, :], added[..., start : start + CHUNK, :]
        reach = 1
        while reach < a.shape[-2]:
            b = b + a * _shifted(b, reach, 0.0)
            a = a * _shifted(a, reach, 1.0)
            reach *= 2
        outputs.append(b + a * h)
        h = outputs[-1][..., -1:, :]
    return torch.cat(outputs, dim=-2)


def _shifted(x: Tensor, by: int, fill: float) -> Tensor:
    return functional.pad(x[..., :-by, :], (0, 0, by, 0), value=fill)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[B, T, H * size] to [B, H, T, size]."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(-2, -3).flatten(-2)


def _check_heads(width: int, parts: int, even: bool = False) -> None:
    if width % parts or (even and width // parts % 2):
        kind = "an even multiple" if even else "a multiple"
        raise UserError(f"width {width} must be {kind} of {parts}; change the width or the number of heads")
