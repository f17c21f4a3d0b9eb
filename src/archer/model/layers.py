"""The layers of every model, written for a fleet: activations [F, B, T, D], parameters [F, ...].

F runs, B sequences of a batch, T tokens, D width, E features of a projection.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [F, ..., D] times weight [F, D, E], one product per run. Returns [F, ..., E]."""
    flat = x.flatten(1, -2)
    if bias is None:
        y = torch.bmm(flat, weight)
    else:
        y = torch.baddbmm(bias[:, None], flat, weight)
    return y.unflatten(1, x.shape[1:-1])


RMS_EPSILON = 1e-5


def rms_norm(x: Tensor, weight: Tensor, epsilon: float = RMS_EPSILON) -> Tensor:
    """x / rms(x) times weight, over the last axis, in float32. weight broadcasts against x."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight


def l2_normalise(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x / |x| over the last axis, in float32, returned in x's own precision."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + epsilon)).to(x.dtype)


def short_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Causal convolution of each channel with its own taps: x [F, B, T, E], weight [F, taps, E].

    The last tap meets the current token.
    """
    taps, length = weight.shape[1], x.shape[2]
    padded = torch.nn.functional.pad(x, (0, 0, taps - 1, 0))
    y = padded[:, :, taps - 1 :] * weight[:, None, taps - 1, None]
    for tap in range(taps - 1):
        y = y + padded[:, :, tap : tap + length] * weight[:, None, tap, None]
    return y


ROWS_AT_ONCE = 2048
"""An embedding's gradient sums over all tokens of a batch for each row of the table. One product of few rows
and a long sum leaves a GPU idle: the tokens are divided in parts, with so many rows in all, and added up."""


class _Embedding(torch.autograd.Function):
    """Row lookup per run, with a gradient that is a product with one-hot rows: no atomic additions, so two
    executions give the same sum, and rare tokens cost no sort."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows = table.shape[1]
        runs = torch.arange(table.shape[0], device=table.device).view(-1, *(1,) * (tokens.dim() - 1))
        return torch.nn.functional.embedding(tokens + runs * ctx.rows, table.flatten(0, 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (tokens,) = ctx.saved_tensors
        return embedding_gradient(gradients[0], tokens, ctx.rows), None


def embedding_gradient(gradient: Tensor, tokens: Tensor, rows: int) -> Tensor:
    """Of the table [F, rows, D], from that of what was looked up, [F, B, T, D], for tokens [F, B, T]."""
    flat, tokens = gradient.flatten(1, -2), tokens.flatten(1)
    parts = _largest_divisor(flat.shape[1], ROWS_AT_ONCE // rows)
    flat, tokens = (x.unflatten(1, (parts, -1)).flatten(0, 1) for x in (flat, tokens))
    each = torch.arange(rows, device=tokens.device)
    one_hot = (tokens[:, None, :] == each[None, :, None]).to(flat.dtype)
    return torch.bmm(one_hot, flat).unflatten(0, (-1, parts)).sum(1)


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is no larger than the limit, at least 1."""
    return next((d for d in range(min(limit, number), 1, -1) if number % d == 0), 1)


def embed(table: Tensor, tokens: Tensor) -> Tensor:
    """table [F, V, D], tokens [F, B, T] in 0..V-1. Returns [F, B, T, D]."""
    return _Embedding.apply(table, tokens)  # type: ignore[return-value]


LOG_PERIOD = torch.log(torch.tensor(10000.0)).item()
"""Of the longest wavelength over 2π, to the digits of float32."""


def sinusoid_positions(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Sine and cosine position features [T, D] with geometric wavelengths.

    Source: Vaswani 2017, arXiv:1706.03762.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-LOG_PERIOD / (half - 1)))
    angles = torch.arange(length, device=device)[:, None] * rates[None]
    features = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(features, (0, width - 2 * half))
