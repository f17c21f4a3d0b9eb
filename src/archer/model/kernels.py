"""A Triton kernel, for GPUs, for what stands before every chunk loop: short convolution, SiLU, normalisation.

From the fused projection it writes q, k and v as the loop wants them, [N, F, B, H, C, D], in one pass over
memory, and takes two for the gradient (the second, the convolution's shifts, is plain PyTorch); as separate
operations they take about ten, because shifts, norms per head and the change of layout do not fuse.
`RuleMixer` uses it where sizes fit; the plain PyTorch forms in `archer.model.layers` are its reference.

F runs, B sequences, T = N C tokens, H heads; E columns of the fused projection, of which the first W are q,
k and v; four taps. All arithmetic is in float32, whatever is stored.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

EPSILON = 1e-6
TILE = 1024
"""Numbers that one program handles at a time: 32 tokens of a head of width 32."""
SHARES = 16
"""Into so many sums the gradient of a run's taps is divided: the same for any number of runs, so that a run's
gradient has the same bits in every fleet."""


@triton.jit
def _shifted(x, sequence, rows, columns, length, T, E, back: tl.constexpr):
    """x [rows, columns] of `back` tokens earlier, zero before the first and from `length` on."""
    row = rows - back
    at = (sequence.to(tl.int64) * T + row)[:, None] * E + columns[None, :]
    return tl.load(x + at, mask=((row >= 0) & (row < length))[:, None], other=0.0).to(tl.float32)


@triton.jit
def _tap(taps, run, tap: tl.constexpr, columns, W):
    """The weights of one tap, [1, columns]; the last of four meets the current token."""
    return tl.load(taps + (run * 4 + tap) * W + columns).to(tl.float32)[None, :]


@triton.jit
def _place(sequence, sequences, head, H, rows, columns, C: tl.constexpr, D: tl.constexpr):
    """Where token `rows` and column `columns` of a head stand in [N, F B, H, C, D]."""
    block = ((rows // C).to(tl.int64) * sequences + sequence) * H + head
    return ((block * C + rows % C) * D)[:, None] + columns[None, :]


@triton.jit
def _forward(
    x, taps, q, k, v, B, T, E, W, H, scale,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    sequence, part = tl.program_id(0), tl.program_id(2)
    rows, inner = tl.program_id(1) * R + tl.arange(0, R), tl.arange(0, K)
    run, columns = sequence // B, part * K + inner
    z = _shifted(x, sequence, rows, columns, T, T, E, 3) * _tap(taps, run, 0, columns, W)
    z += _shifted(x, sequence, rows, columns, T, T, E, 2) * _tap(taps, run, 1, columns, W)
    z += _shifted(x, sequence, rows, columns, T, T, E, 1) * _tap(taps, run, 2, columns, W)
    z += _shifted(x, sequence, rows, columns, T, T, E, 0) * _tap(taps, run, 3, columns, W)
    y = z * tl.sigmoid(z)
    if part < 2 * H:
        y *= tl.rsqrt(tl.sum(y * y, 1) + EPSILON)[:, None]
    inside, sequences = (rows < T)[:, None], tl.num_programs(0)
    if part < H:
        tl.store(q + _place(sequence, sequences, part, H, rows, inner, C, K), y * scale, mask=inside)
    elif part < 2 * H:
        tl.store(k + _place(sequence, sequences, part - H, H, rows, inner, C, K), y, mask=inside)
    else:
        first = (part - 2 * H) * K
        at = _place(sequence, sequences, first // V, H, rows, first % V + inner, C, V)
        tl.store(v + at, y, mask=inside)


@triton.jit
def _backward(
    x, taps, dq, dk, dv, dz, dtaps, B, T, E, W, H, scale, sequences, each, blocks,
    EPSILON: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    run, share, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    inner = tl.arange(0, K)
    columns = part * K + inner
    tap0, tap1 = _tap(taps, run, 0, columns, W), _tap(taps, run, 1, columns, W)
    tap2, tap3 = _tap(taps, run, 2, columns, W), _tap(taps, run, 3, columns, W)
    total0 = tl.zeros((R, K), tl.float32)
    total1 = tl.zeros((R, K), tl.float32)
    total2 = tl.zeros((R, K), tl.float32)
    total3 = tl.zeros((R, K), tl.float32)
    for nth in range(each):
        sequence = run * B + share * each + nth
        length = tl.where(share * each + nth < B, T, 0)
        for block in range(blocks):
            rows = block * R + tl.arange(0, R)
            inside = (rows < length)[:, None]
            x0 = _shifted(x, sequence, rows, columns, length, T, E, 3)
            x1 = _shifted(x, sequence, rows, columns, length, T, E, 2)
            x2 = _shifted(x, sequence, rows, columns, length, T, E, 1)
            x3 = _shifted(x, sequence, rows, columns, length, T, E, 0)
            z = x0 * tap0 + x1 * tap1 + x2 * tap2 + x3 * tap3
            gate = tl.sigmoid(z)
            y = z * gate
            if part < 2 * H:
                if part < H:
                    at = _place(sequence, sequences, part, H, rows, inner, C, K)
                    g = tl.load(dq + at, mask=inside, other=0.0).to(tl.float32) * scale
                else:
                    at = _place(sequence, sequences, part - H, H, rows, inner, C, K)
                    g = tl.load(dk + at, mask=inside, other=0.0).to(tl.float32)
                shrink = tl.rsqrt(tl.sum(y * y, 1) + EPSILON)[:, None]
                unit = y * shrink
                g = (g - unit * tl.sum(g * unit, 1)[:, None]) * shrink
            else:
                start = (part - 2 * H) * K
                at = _place(sequence, sequences, start // V, H, rows, start % V + inner, C, V)
                g = tl.load(dv + at, mask=inside, other=0.0).to(tl.float32)
            g = tl.where(inside, g * (gate + y * (1 - gate)), 0.0)
            at = (sequence.to(tl.int64) * T + rows)[:, None] * W + columns[None, :]
            tl.store(dz + at, g, mask=inside)
            total0 += x0 * g
            total1 += x1 * g
            total2 += x2 * g
            total3 += x3 * g
    out = dtaps + (run * tl.num_programs(1) + share) * 4 * W + columns
    tl.store(out, tl.sum(total0, 0))
    tl.store(out + W, tl.sum(total1, 0))
    tl.store(out + 2 * W, tl.sum(total2, 0))
    tl.store(out + 3 * W, tl.sum(total3, 0))


def _launch(kernel: Any, grid: tuple[int, int, int], *arguments: Any, **constants: Any) -> None:
    kernel[grid](*arguments, **constants, EPSILON=EPSILON, num_warps=2)


def _sizes(x: Tensor, heads: int, key: int, value: int, chunk: int) -> tuple[int, dict[str, int]]:
    """Columns of q, k and v, and the kernels' constants."""
    rows = min(TILE // key, 1 << (x.shape[2] - 1).bit_length())
    return heads * (2 * key + value), {"K": key, "V": value, "C": chunk, "R": rows}


@torch.library.custom_op("archer::convolved", mutates_args=())
def _convolved_op(
    x: Tensor, taps: Tensor, heads: int, key: int, value: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _like(x, taps, heads, key, value, chunk)
    runs, batch, length, columns = x.shape
    width, constants = _sizes(x, heads, key, value, chunk)
    grid = (runs * batch, -(-length // constants["R"]), width // key)
    _launch(
        _forward, grid, x, taps, q, k, v, batch, length, columns, width, heads, key**-0.5,
        **constants,
    )  # fmt: skip
    return q, k, v


@_convolved_op.register_fake
def _like(x: Tensor, taps: Tensor, heads: int, key: int, value: int, chunk: int) -> tuple[Any, Any, Any]:
    runs, batch, length = x.shape[:3]
    shape = (length // chunk, runs, batch, heads, chunk)
    return x.new_empty(*shape, key), x.new_empty(*shape, key), x.new_empty(*shape, value)


@torch.library.custom_op("archer::convolved_backward", mutates_args=())
def _gradients(
    x: Tensor, taps: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, heads: int, key: int, value: int, chunk: int
) -> tuple[Tensor, Tensor]:
    dz, dtaps = _gradients_like(x, taps, dq, dk, dv, heads, key, value, chunk)
    runs, batch, length, columns = x.shape
    width, constants = _sizes(x, heads, key, value, chunk)
    shares = dtaps.shape[1]
    _launch(
        _backward, (runs, shares, width // key), x, taps, dq, dk, dv, dz, dtaps, batch, length, columns,
        width, heads, key**-0.5, runs * batch, -(-batch // shares), -(-length // constants["R"]), **constants,
    )  # fmt: skip
    return dz, dtaps


@_gradients.register_fake
def _gradients_like(x, taps, dq, dk, dv, heads, key, value, chunk) -> Any:
    """The gradient before SiLU [F, B, T, W], and that of the taps in shares, [F, shares, 4, W]."""
    runs, batch, length = x.shape[:3]
    width = heads * (2 * key + value)
    return x.new_empty(runs, batch, length, width), taps.new_empty(runs, min(batch, SHARES), *taps.shape[1:])


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.sizes = inputs[2:]


def _apply(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> Any:
    x, taps = ctx.saved_tensors
    dz, dtaps = _gradients(x, taps, dq.contiguous(), dk.contiguous(), dv.contiguous(), *ctx.sizes)
    count, length, width = taps.shape[1], x.shape[2], taps.shape[2]
    later = torch.nn.functional.pad(dz, (0, 0, 0, count - 1)).float()
    weights = taps[:, None, :, None]
    dx = sum(
        later[:, :, count - 1 - tap : count - 1 - tap + length] * weights[:, :, tap] for tap in range(count)
    )
    dx = torch.nn.functional.pad(dx, (0, x.shape[3] - width)).to(x.dtype)  # type: ignore[arg-type, union-attr]
    return dx, dtaps.sum(1), None, None, None, None


_convolved_op.register_autograd(_apply, setup_context=_setup)


def convolved(
    x: Tensor, taps: Tensor, heads: int, key: int, value: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q (divided by √Dk), k and v of the chunk loop: [N, F, B, H, C, Dk or Dv], q and k of length 1 per head.

    x: fused projection [F, B, T, E], its first columns q, k and v; T a multiple of the chunk. taps [F, 4, W].
    """
    return _convolved_op(x.contiguous(), taps.float().contiguous(), heads, key, value, chunk)
