"""Triton kernels for the WY form of a chunk, for GPUs: what most rules' `prepare` makes of k, v and beta.

They do for one chunk of one head, in registers, what takes a dozen passes over memory as separate products of
32 by 32 matrices. `wy` (in `archer.rules.algebra`) uses them where `kernels_for` says so; the plain PyTorch
form is their reference, and a test compares outputs and all gradients. The loop over chunks itself is
`archer.rules.chunk_kernel`.

Axes: leading axes are flattened. Products take operands in the precision of k (bfloat16 in training) and add
up in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from archer.rules.launch import launch


@triton.jit
def _tile(pointer, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    return pointer + index * ROWS * COLUMNS + rows[:, None] * COLUMNS + columns[None, :]


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _wy_forward(
    k, v, beta, decay, k_read, u, w, t,
    C: tl.constexpr, K: tl.constexpr, V: tl.constexpr, LEVELS: tl.constexpr,
    DECAY: tl.constexpr, READ: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, C)
    keys = tl.load(_tile(k, index, C, K))
    kind = keys.dtype
    strength = tl.load(beta + index * C + rows).to(tl.float32)[:, None]
    scaled = (keys.to(tl.float32) * strength).to(kind)
    lower = _product(scaled, tl.trans(keys), P)
    if DECAY:
        lower = lower * tl.load(_tile(decay, index, C, C)).to(tl.float32)
    lower = tl.where(rows[:, None] > rows[None, :], lower, 0.0)
    inverse = tl.where(rows[:, None] == rows[None, :], 1.0, 0.0)
    for level in tl.static_range(LEVELS):  # as `invert_unit_lower_plainly`
        row, column = (rows >> level)[:, None], (rows >> level)[None, :]
        below = ((row >> 1) == (column >> 1)) & (row % 2 == 1) & (column % 2 == 0)
        part = tl.where(below, lower, 0.0)
        if level == 0:
            inverse = inverse - part
        else:
            inverse = inverse - _product(_product(inverse, part, P), inverse, P)
    transform = inverse.to(kind)
    tl.store(_tile(t, index, C, C), transform)
    values = tl.load(_tile(v, index, C, V)).to(tl.float32)
    tl.store(_tile(u, index, C, V), _product(transform, (values * strength).to(kind), P).to(kind))
    if READ:
        scaled = (tl.load(_tile(k_read, index, C, K)).to(tl.float32) * strength).to(kind)
    tl.store(_tile(w, index, C, K), _product(transform, scaled, P).to(kind))


@triton.jit
def _wy_backward(
    k, v, beta, decay, k_read, t, du, dw, dk, dv, dbeta, ddecay, dk_read,
    C: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    DECAY: tl.constexpr, READ: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, C)
    keys = tl.load(_tile(k, index, C, K))
    kind = keys.dtype
    wide = keys.to(tl.float32)
    strength = tl.load(beta + index * C + rows).to(tl.float32)[:, None]
    scaled = (wide * strength).to(kind)
    read = tl.load(_tile(k_read, index, C, K)).to(tl.float32) if READ else wide
    values = tl.load(_tile(v, index, C, V)).to(tl.float32)
    transposed = tl.trans(tl.load(_tile(t, index, C, C)))
    gradient_u = tl.load(_tile(du, index, C, V))
    gradient_w = tl.load(_tile(dw, index, C, K))
    gradient_t = _product(gradient_u, tl.trans((values * strength).to(kind)), P)
    gradient_t += _product(gradient_w, tl.trans((read * strength).to(kind)), P)
    exact = transposed.to(tl.float32)  # the gradients of decay and beta are sums in which much cancels
    lower = -_product(_product(exact, gradient_t, P), exact, P)
    lower = tl.where(rows[:, None] > rows[None, :], lower, 0.0)
    if DECAY:
        overlap = _product(scaled, tl.trans(keys), P)
        tl.store(_tile(ddecay, index, C, C), lower * overlap)
        lower = lower * tl.load(_tile(decay, index, C, C)).to(tl.float32)
    lower = lower.to(kind)
    from_scaled = _product(lower, keys, P)
    gradient_k = _product(tl.trans(lower), scaled, P) + from_scaled * strength
    gradient_strength = tl.sum(from_scaled * wide, 1)
    from_values = _product(transposed, gradient_u, P)
    tl.store(_tile(dv, index, C, V), (from_values * strength).to(kind))
    gradient_strength += tl.sum(from_values * values, 1)
    from_read = _product(transposed, gradient_w, P)
    gradient_strength += tl.sum(from_read * read, 1)
    if READ:
        tl.store(_tile(dk_read, index, C, K), (from_read * strength).to(kind))
    else:
        gradient_k += from_read * strength
    tl.store(_tile(dk, index, C, K), gradient_k.to(kind))
    tl.store(dbeta + index * C + rows, gradient_strength.to(kind))


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


def _levels(size: int) -> int:
    return size.bit_length() - 1


def _warps(*sizes: int) -> int:
    """Warps per program: a tile of 32 by 32 keeps two busy, one of 128 by 128 needs eight to hold it."""
    return {16: 2, 32: 2, 64: 4}.get(max(sizes), 8)


@torch.library.custom_op("archer::wy", mutates_args=())
def _wy(
    k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, k_read: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    u, w, t = torch.empty_like(v), torch.empty_like(k), k.new_empty(*k.shape[:-1], k.shape[-2])
    size, key, value = k.shape[-2], k.shape[-1], v.shape[-1]
    launch(
        _wy_forward, (k.numel() // (size * key),), k, v, beta, decay, k_read, u, w, t,
        C=size, K=key, V=value, LEVELS=_levels(size),
        DECAY=decay is not None, READ=k_read is not None, P=_precision(k),
        num_warps=_warps(size, key, value) // 2,
    )  # fmt: skip
    return u, w, t


@_wy.register_fake
def _(
    k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, k_read: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(k), k.new_empty(*k.shape[:-1], k.shape[-2])


@torch.library.custom_op("archer::wy_backward", mutates_args=())
def _wy_gradients(
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    k_read: Tensor | None,
    t: Tensor,
    du: Tensor,
    dw: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dk, dv, dbeta, ddecay, dk_read = _wy_gradients_like(k, v, beta, decay, k_read)
    size, key, value = k.shape[-2], k.shape[-1], v.shape[-1]
    launch(
        _wy_backward, (k.numel() // (size * key),), k, v, beta, decay, k_read, t, du, dw, dk, dv, dbeta,
        ddecay, dk_read, C=size, K=key, V=value,
        DECAY=decay is not None, READ=k_read is not None, P=_precision(k), num_warps=_warps(size, key, value),
    )  # fmt: skip
    return dk, dv, dbeta, ddecay, dk_read


def _wy_gradients_like(
    k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, k_read: Tensor | None
) -> Any:
    empty = k.new_empty(0)
    return (
        torch.empty_like(k),
        torch.empty_like(v),
        torch.empty_like(beta),
        empty if decay is None else torch.empty_like(decay),
        k.new_empty(0) if k_read is None else torch.empty_like(k_read),
    )


@_wy_gradients.register_fake
def _(k, v, beta, decay, k_read, t, du, dw):
    return _wy_gradients_like(k, v, beta, decay, k_read)


def _wy_setup(ctx: Any, inputs: Any, output: Any) -> None:
    k, v, beta, decay, k_read = inputs
    ctx.save_for_backward(k, v, beta, decay, k_read, output[2])


def _wy_apply(ctx: Any, du: Tensor, dw: Tensor, dt: Tensor) -> Any:
    k, v, beta, decay, k_read, t = ctx.saved_tensors
    dk, dv, dbeta, ddecay, dk_read = _wy_gradients(
        k, v, beta, decay, k_read, t, du.contiguous(), dw.contiguous()
    )
    return dk, dv, dbeta, ddecay if decay is not None else None, dk_read if k_read is not None else None


_wy.register_autograd(_wy_apply, setup_context=_wy_setup)


def wy(k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, k_read: Tensor | None) -> dict[str, Tensor]:
    """As `archer.rules.algebra.wy`, for tensors that `kernels_for` accepts."""
    kind = k.dtype
    precise = None if decay is None else decay.float()  # what forgets is a sum of logarithms: 8 bits are few
    given = [
        x if x is None else x.expand(*k.shape[:-1], x.shape[-1]).contiguous()
        for x in (precise, None if k_read is None else k_read.to(kind))
    ]
    beta = beta.to(kind).expand(*k.shape[:-1], 1).contiguous()
    u, w, _ = _wy(k.contiguous(), v.to(kind).contiguous(), beta, *given)
    return {"u": u, "w": w}
