"""A Triton kernel, for GPUs, for what stands before every chunk loop: short convolution, SiLU, normalisation.

From the fused projection it writes q, k and v as the loop wants them, [N, F, B, H, C, D], in one pass over
memory, and takes one for the gradient of the whole projection; as separate operations they take about ten,
because shifts, norms per head and the change of layout do not fuse. A program takes some sequences and one
head's columns and goes from token to token: what the convolution wants of the three tokens before (and its
gradient of the three after) it still has. `RuleMixer` uses it where sizes fit; the plain PyTorch forms in
`archer.model.layers` are its reference.

F runs, B sequences, T = N C tokens, H heads; E columns of the fused projection, of which the first W are q,
k and v; four taps. All arithmetic is in float32, whatever is stored.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from archer.rules.launch import launch

EPSILON = 1e-6
TILE = 256
"""Numbers that one program handles at a time: a token of 8 sequences, for heads of width 32."""
SEGMENT = 64
"""Tokens that one program goes through. With TILE it says how the sums over a run's tokens are divided: in
the same way for any number of runs, so that a run's gradient has the same bits in every fleet."""


@triton.jit
def _token(x, known, t, T, E):
    """Token t of sequences [S, columns], zero before the first and from T on; x: where token 0 stands."""
    return tl.load(x + t * tl.cast(E, tl.int64), mask=known & (t >= 0) & (t < T), other=0.0)


@triton.jit
def _tap(taps, run, tap: tl.constexpr, columns, W):
    """The weights of one tap, [1, columns]; the last of four meets the current token."""
    return tl.load(taps + (run * 4 + tap) * W + columns).to(tl.float32)[None, :]


@triton.jit
def _place(q, k, v, sequences, part, H, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):
    """Where token 0 of a part of q, k or v stands in [N, F B, H, C, K or V]; and that width."""
    start = tl.maximum(part - 2 * H, 0) * K
    x, head, wide, first = v, start // V, V, start % V
    if part < 2 * H:
        x, head, wide, first = k, part - H, K, 0
    if part < H:
        x, head, wide, first = q, part, K, 0
    block = (sequences * H + head) * C
    return x + block[:, None] * wide + (first + tl.arange(0, K))[None, :], wide


@triton.jit
def _at(x, t, total, H, wide, K: tl.constexpr, C: tl.constexpr):
    """Where token t stands, for x of `_place`; total: sequences of all runs. The compiler is told that rows
    are whole and begin at multiples of 16 bytes, which it cannot see through the choice of q, k or v."""
    x += (t // C * tl.cast(total * H * C, tl.int64) + t % C) * wide
    return tl.multiple_of(tl.max_contiguous(x, [1, K]), [1, 16])


@triton.jit
def _whose(tile, B, S: tl.constexpr):
    """The run of a tile, its sequences among those of all runs, and which of them there are."""
    tiles = tl.cdiv(B, S)
    nth = (tile % tiles) * S + tl.arange(0, S)
    return tile // tiles, (tile // tiles * B + nth).to(tl.int64), (nth < B)[:, None]


@triton.jit
def _forward(
    x, taps, q, k, v, parts, B, T, E, W, H, total, scale,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, S: tl.constexpr, SEGMENT: tl.constexpr,
    EPSILON: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0) % parts  # first: programs of the same rows run together and read them in one go
    run, sequences, known = _whose(tl.program_id(0) // parts, B, S)  # type: ignore[misc]
    columns = part * K + tl.arange(0, K)
    tap0, tap1 = _tap(taps, run, 0, columns, W), _tap(taps, run, 1, columns, W)
    tap2, tap3 = _tap(taps, run, 2, columns, W), _tap(taps, run, 3, columns, W)
    factor = tl.where(part < H, scale, 1.0)
    out, wide = _place(q, k, v, sequences, part, H, K, V, C)
    x += (sequences * T)[:, None] * E + columns[None, :]
    first = tl.program_id(1) * SEGMENT
    x0 = _token(x, known, first - 3, T, E).to(tl.float32)
    x1 = _token(x, known, first - 2, T, E).to(tl.float32)
    x2 = _token(x, known, first - 1, T, E).to(tl.float32)
    coming = _token(x, known, first, T, E)
    for t in tl.range(first, tl.minimum(first + SEGMENT, T), loop_unroll_factor=4):
        x3 = coming.to(tl.float32)
        coming = _token(x, known, t + 1, T, E)
        z = x0 * tap0 + x1 * tap1 + x2 * tap2 + x3 * tap3
        y = z * tl.sigmoid(z)
        if part < 2 * H:
            y *= tl.rsqrt(tl.sum(y * y, 1) + EPSILON)[:, None] * factor
        tl.store(_at(out, t, total, H, wide, K, C), y, mask=known)
        x0, x1, x2 = x1, x2, x3


@triton.jit
def _backward(
    x, taps, dq, dk, dv, dothers, dx, dtaps, parts, B, T, E, W, H, total, scale,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, S: tl.constexpr, SEGMENT: tl.constexpr,
    EPSILON: tl.constexpr,
):  # fmt: skip
    """From the last token to the first; three tokens after the segment's own are gone through for what they
    give to its last ones. The columns that are no part of q, k and v are copied."""
    part = tl.program_id(0) % parts
    run, sequences, known = _whose(tl.program_id(0) // parts, B, S)  # type: ignore[misc]
    columns = part * K + tl.arange(0, K)
    first = tl.program_id(1) * SEGMENT
    end = tl.minimum(first + SEGMENT, T)
    x += (sequences * T)[:, None] * E + columns[None, :]
    dx += (sequences * T)[:, None] * E + columns[None, :]
    if part * K >= W:
        others = dothers + (sequences * T)[:, None] * (E - W) + (columns - W)[None, :]
        inside = known & (columns < E)[None, :]
        for t in range(first, end):
            given = tl.load(others + t * tl.cast(E - W, tl.int64), mask=inside, other=0.0)
            tl.store(dx + t * tl.cast(E, tl.int64), given, mask=inside)
    else:
        tap0, tap1 = _tap(taps, run, 0, columns, W), _tap(taps, run, 1, columns, W)
        tap2, tap3 = _tap(taps, run, 2, columns, W), _tap(taps, run, 3, columns, W)
        factor = tl.where(part < H, scale, 1.0)
        given, wide = _place(dq, dk, dv, sequences, part, H, K, V, C)
        total0 = tl.zeros((S, K), tl.float32)
        total1 = tl.zeros((S, K), tl.float32)
        total2 = tl.zeros((S, K), tl.float32)
        total3 = tl.zeros((S, K), tl.float32)
        g1 = tl.zeros((S, K), tl.float32)
        g2 = tl.zeros((S, K), tl.float32)
        g3 = tl.zeros((S, K), tl.float32)
        x3 = _token(x, known, end + 2, T, E).to(tl.float32)
        x2 = _token(x, known, end + 1, T, E).to(tl.float32)
        x1 = _token(x, known, end, T, E).to(tl.float32)
        coming = _token(x, known, end - 1, T, E)
        above = tl.load(_at(given, end + 2, total, H, wide, K, C), mask=known & (end + 2 < T), other=0.0)
        for back in tl.range(0, end - first + 3, loop_unroll_factor=4):
            t = end + 2 - back
            x0, g = coming.to(tl.float32), above.to(tl.float32)
            coming = _token(x, known, t - 4, T, E)
            inside = known & (t > 0) & (t <= T)
            above = tl.load(_at(given, t - 1, total, H, wide, K, C), mask=inside, other=0.0)
            z = x0 * tap0 + x1 * tap1 + x2 * tap2 + x3 * tap3
            gate = tl.sigmoid(z)
            y = z * gate
            if part < 2 * H:
                shrink = tl.rsqrt(tl.sum(y * y, 1) + EPSILON)
                along = tl.sum(g * y, 1) * shrink * shrink
                g = (g - y * along[:, None]) * (shrink * factor)[:, None]
            g *= gate + y * (1 - gate)
            own = tl.where(t < end, g, 0.0)
            total0 += x0 * own
            total1 += x1 * own
            total2 += x2 * own
            total3 += x3 * own
            made = g * tap3 + g1 * tap2 + g2 * tap1 + g3 * tap0
            tl.store(dx + t * tl.cast(E, tl.int64), made, mask=known & (t < end))
            g3, g2, g1 = g2, g1, g
            x3, x2, x1 = x2, x1, x0
        share = (tl.program_id(0) // parts) * tl.num_programs(1) + tl.program_id(1)
        out = dtaps + share.to(tl.int64) * 4 * W + columns
        tl.store(out, tl.sum(total0, 0))
        tl.store(out + W, tl.sum(total1, 0))
        tl.store(out + 2 * W, tl.sum(total2, 0))
        tl.store(out + 3 * W, tl.sum(total3, 0))


def _launch(kernel: Any, grid: tuple[int, int], *arguments: Any, **constants: Any) -> None:
    launch(kernel, grid, *arguments, **constants, SEGMENT=SEGMENT, EPSILON=EPSILON, num_warps=2)


def _sizes(x: Tensor, heads: int, key: int, value: int, chunk: int) -> tuple[int, int, int, dict[str, int]]:
    """Columns of q, k and v; tiles of a run's sequences, segments of its tokens; the kernels' constants."""
    at_once = max(TILE // key, 1)
    tiles, segments = -(-x.shape[1] // at_once), -(-x.shape[2] // SEGMENT)
    return heads * (2 * key + value), tiles, segments, {"K": key, "V": value, "C": chunk, "S": at_once}


@torch.library.custom_op("archer::convolved", mutates_args=())
def _convolved_op(
    x: Tensor, taps: Tensor, heads: int, key: int, value: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _like(x, taps, heads, key, value, chunk)
    runs, batch, length, columns = x.shape
    width, tiles, segments, constants = _sizes(x, heads, key, value, chunk)
    _launch(
        _forward, (runs * tiles * (width // key), segments), x, taps, q, k, v, width // key, batch, length,
        columns, width, heads, runs * batch, key**-0.5, **constants,
    )  # fmt: skip
    return q, k, v


@_convolved_op.register_fake
def _like(x: Tensor, taps: Tensor, heads: int, key: int, value: int, chunk: int) -> tuple[Any, Any, Any]:
    runs, batch, length = x.shape[:3]
    shape = (length // chunk, runs, batch, heads, chunk)
    return x.new_empty(*shape, key), x.new_empty(*shape, key), x.new_empty(*shape, value)


@torch.library.custom_op("archer::convolved_backward", mutates_args=())
def _gradients(
    x: Tensor, taps: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, dothers: Tensor,
    heads: int, key: int, value: int, chunk: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dx, dtaps = _gradients_like(x, taps, dq, dk, dv, dothers, heads, key, value, chunk)
    runs, batch, length, columns = x.shape
    width, tiles, segments, constants = _sizes(x, heads, key, value, chunk)
    parts, given = -(-columns // key), [_aligned(g) for g in (dq, dk, dv)]
    _launch(
        _backward, (runs * tiles * parts, segments), x, taps, *given, dothers, dx, dtaps, parts, batch,
        length, columns, width, heads, runs * batch, key**-0.5, **constants,
    )  # fmt: skip
    return dx, dtaps


def _aligned(x: Tensor) -> Tensor:
    """As `_at` promises: beginning at a multiple of 16 bytes, which a part of a larger tensor need not."""
    return x if x.data_ptr() % 16 == 0 else x.clone()


@_gradients.register_fake
def _gradients_like(x, taps, dq, dk, dv, dothers, heads, key, value, chunk) -> Any:
    """Of the projection [F, B, T, E], and of the taps in shares, [F, shares, 4, W]."""
    _, tiles, segments, _ = _sizes(x, heads, key, value, chunk)
    return torch.empty_like(x), taps.new_empty(taps.shape[0], tiles * segments, *taps.shape[1:])


class _Convolved(torch.autograd.Function):
    """q, k, v and the other columns of the projection, so that one kernel writes the gradient of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, *sizes: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, taps)
        ctx.sizes = sizes
        return (*_convolved_op(x, taps, *sizes), x[..., taps.shape[-1] :])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, taps = ctx.saved_tensors
        dx, dtaps = _gradients(x, taps, *(g.contiguous() for g in gradients), *ctx.sizes)
        return dx, dtaps.sum(1), *(None for _ in ctx.sizes)


def convolved(
    x: Tensor, taps: Tensor, heads: int, key: int, value: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q (divided by √Dk), k and v of the chunk loop, [N, F, B, H, C, Dk or Dv], q and k of length 1 per head;
    and the columns [F, B, T, E - W] of the projection that are none of them.

    x: fused projection [F, B, T, E], its first columns q, k and v; T a multiple of the chunk. taps [F, 4, W].
    """
    return _Convolved.apply(x.contiguous(), taps.float().contiguous(), heads, key, value, chunk)  # type: ignore[return-value]
