"""Triton kernels for the two fixed parts of the chunk loop, for GPUs: the WY form, and the plain scan.

Both do for one chunk of one head, in registers, what takes a dozen passes over memory as separate products of
32 by 32 matrices. `wy` (in `archer.rules.algebra`) and the chunk loop use them where `kernels_for` says so;
the plain PyTorch forms are their references, and a test compares outputs and all gradients.

Axes: leading axes are flattened to L; N chunks in front where the order of chunks matters: [N, M, C, D].
Products take operands in the precision of k (bfloat16 in training) and add up in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor


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


@triton.jit
def _scan_forward(
    q, k, u, w, weights, decay, q_read, k_write, keep, start, o, states, end, M, N,
    C: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    GIVEN: tl.constexpr, DECAY: tl.constexpr, OWN: tl.constexpr, KEEP: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, C)
    state = tl.load(_tile(start, head, K, V)).to(tl.float32)
    for n in range(N):
        index = n * M + head
        queries, keys = tl.load(_tile(q, index, C, K)), tl.load(_tile(k, index, C, K))
        kind = keys.dtype
        if GIVEN:
            weighing = tl.load(_tile(weights, index, C, C))
        else:
            scores = _product(queries, tl.trans(keys), P)
            if DECAY:
                scores *= tl.load(_tile(decay, index, C, C)).to(tl.float32)
            weighing = tl.where(rows[:, None] >= rows[None, :], scores, 0.0).to(kind)
        if OWN:
            queries, keys = tl.load(_tile(q_read, index, C, K)), tl.load(_tile(k_write, index, C, K))
        narrow = state.to(kind)
        tl.store(_tile(states, index, K, V), narrow)
        error = tl.load(_tile(u, index, C, V)).to(tl.float32)
        error = (error - _product(tl.load(_tile(w, index, C, K)), narrow, P)).to(kind)
        out = _product(queries, narrow, P) + _product(weighing, error, P)
        tl.store(_tile(o, index, C, V), out.to(kind))
        if KEEP:
            state = state * tl.load(keep + index).to(tl.float32)
        state += _product(tl.trans(keys), error, P)
    tl.store(_tile(end, head, K, V), state)


@triton.jit
def _scan_backward(
    q, k, u, w, weights, decay, q_read, k_write, keep, states, do, dend,
    dq, dk, du, dw, dweights, ddecay, dq_read, dk_write, dkeep, dstart, M, N,
    C: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    GIVEN: tl.constexpr, DECAY: tl.constexpr, OWN: tl.constexpr, KEEP: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, C)
    seen = rows[:, None] <= rows[None, :]  # of weights transposed: the row is the token that is read
    gradient = tl.load(_tile(dend, head, K, V)).to(tl.float32)
    for back in range(N):
        index = (N - 1 - back) * M + head
        keys, queries = tl.load(_tile(k, index, C, K)), tl.load(_tile(q, index, C, K))
        kind = keys.dtype
        state = tl.load(_tile(states, index, K, V))
        reads = tl.load(_tile(w, index, C, K))
        out = tl.load(_tile(do, index, C, V))
        error = (tl.load(_tile(u, index, C, V)).to(tl.float32) - _product(reads, state, P)).to(kind)
        narrow = gradient.to(kind)
        from_written = _product(error, tl.trans(narrow), P)
        from_read = _product(out, tl.trans(state), P)
        if OWN:
            tl.store(_tile(dk_write, index, C, K), from_written.to(kind))
            tl.store(_tile(dq_read, index, C, K), from_read.to(kind))
        if GIVEN:
            tl.store(_tile(dweights, index, C, C), _product(out, tl.trans(error), P).to(kind))
            weighing = tl.trans(tl.load(_tile(weights, index, C, C)))
            tl.store(_tile(dk, index, C, K), from_written.to(kind))
            tl.store(_tile(dq, index, C, K), from_read.to(kind))
        else:
            scores = tl.where(seen, _product(keys, tl.trans(queries), P), 0.0)
            from_scores = tl.where(seen, _product(error, tl.trans(out), P), 0.0)
            if DECAY:
                forgotten = tl.trans(tl.load(_tile(decay, index, C, C)).to(tl.float32))
                tl.store(_tile(ddecay, index, C, C), tl.trans(from_scores * scores))
                scores, from_scores = scores * forgotten, from_scores * forgotten
            weighing, narrowed = scores.to(kind), from_scores.to(kind)
            to_keys, to_queries = _product(narrowed, queries, P), _product(tl.trans(narrowed), keys, P)
            if not OWN:
                to_keys, to_queries = to_keys + from_written, to_queries + from_read
            tl.store(_tile(dk, index, C, K), to_keys.to(kind))
            tl.store(_tile(dq, index, C, K), to_queries.to(kind))
        if OWN:
            keys, queries = tl.load(_tile(k_write, index, C, K)), tl.load(_tile(q_read, index, C, K))
        from_error = (_product(weighing, out, P) + _product(keys, narrow, P)).to(kind)
        tl.store(_tile(du, index, C, V), from_error)
        tl.store(_tile(dw, index, C, K), (-_product(from_error, tl.trans(state), P)).to(kind))
        if KEEP:
            tl.store(dkeep + index, tl.sum(gradient * state.to(tl.float32)))
            gradient = gradient * tl.load(keep + index).to(tl.float32)
        gradient += _product(tl.trans(queries), out, P) - _product(tl.trans(reads), from_error, P)
    tl.store(_tile(dstart, head, K, V), gradient)


def _over(kernel: Any, programs: int) -> Any:
    """The kernel, to be called with its arguments, over a grid of so many programs."""
    return kernel[(programs,)]


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
    _over(_wy_forward, k.numel() // (size * key))(
        k, v, beta, decay, k_read, u, w, t, C=size, K=key, V=value, LEVELS=_levels(size),
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
    _over(_wy_backward, k.numel() // (size * key))(
        k, v, beta, decay, k_read, t, du, dw, dk, dv, dbeta, ddecay, dk_read, C=size, K=key, V=value,
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


@torch.library.custom_op("archer::scan", mutates_args=())
def _scan(
    q: Tensor, k: Tensor, u: Tensor, w: Tensor, weights: Tensor | None, decay: Tensor | None,
    q_read: Tensor | None, k_write: Tensor | None, keep: Tensor | None, start: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    given = (q, k, u, w, weights, decay, q_read, k_write, keep)
    o, states, end = _scan_like(*given, start)
    heads = start.numel() // (start.shape[-1] * start.shape[-2])
    _over(_scan_forward, heads)(*given, start, o, states, end, heads, k.shape[0], **_scan_options(*given))
    return o, states, end


def _scan_like(q, k, u, w, weights, decay, q_read, k_write, keep, start):
    return torch.empty_like(u), u.new_empty(k.shape[0], *start.shape), torch.empty_like(start)


def _scan_options(q, k, u, w, weights, decay, q_read, k_write, keep) -> dict[str, Any]:
    size, key, value = k.shape[-2], k.shape[-1], u.shape[-1]
    return {
        "C": size, "K": key, "V": value, "GIVEN": weights is not None, "DECAY": decay is not None,
        "OWN": q_read is not None, "KEEP": keep is not None, "P": _precision(k),
        "num_warps": _warps(size, key, value), "num_stages": 3 if max(size, key, value) < 128 else 2,
    }  # fmt: skip


_scan.register_fake(_scan_like)


@torch.library.custom_op("archer::scan_backward", mutates_args=())
def _scan_gradients(
    q: Tensor, k: Tensor, u: Tensor, w: Tensor, weights: Tensor | None, decay: Tensor | None,
    q_read: Tensor | None, k_write: Tensor | None, keep: Tensor | None, states: Tensor, do: Tensor,
    dend: Tensor,
) -> list[Tensor]:  # fmt: skip
    given = (q, k, u, w, weights, decay, q_read, k_write, keep)
    made = _scan_gradients_like(*given, states, do, dend)
    heads = dend.numel() // (dend.shape[-1] * dend.shape[-2])
    _over(_scan_backward, heads)(
        *given, states, do, dend, *made, heads, k.shape[0], **_scan_options(*given)
    )  # fmt: skip
    return made


def _scan_gradients_like(q, k, u, w, weights, decay, q_read, k_write, keep, states, do, dend) -> list[Tensor]:
    def like(x: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
        return dend.new_empty(0) if x is None else torch.empty_like(x, dtype=dtype)

    narrow = [like(x) for x in (q, k, u, w, weights)]
    own = [like(x) for x in (q_read, k_write)]
    return [*narrow, like(decay, torch.float32), *own, like(keep, torch.float32), torch.empty_like(dend)]


_scan_gradients.register_fake(_scan_gradients_like)


def _scan_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:-1], output[1])


def _scan_apply(ctx: Any, do: Tensor, dstates: Tensor, dend: Tensor) -> Any:
    *given, states = ctx.saved_tensors
    *made, dstart = _scan_gradients(*given, states, do.contiguous(), dend.contiguous())
    return *(None if x is None else dx.to(x.dtype) for x, dx in zip(given, made, strict=True)), dstart


_scan.register_autograd(_scan_apply, setup_context=_scan_setup)


def scan(
    q: Tensor, k: Tensor, u: Tensor, w: Tensor, keep: Tensor | None, start: Tensor,
    weights: Tensor | None = None, weighed: tuple[Tensor, Tensor, Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """All chunks of a rule whose loop is plain from `e = u - w S` on: o [N, ..., C, Dv] and the last state.

    q, k: as read and as written. keep [N, ..., 1, 1]: the state's factor per chunk, or None. start: S before
    the first chunk, [..., Dk, Dv] in float32. The weights [N, ..., C, C] are given, or made here as delta_net
    makes them, from `weighed`: queries, keys, and what decays them [..., C, C] or None.
    """
    kind, shape, size = u.dtype, u.shape[:-2], k.shape[-2]

    def whole(x: Tensor | None, dtype: torch.dtype = kind) -> Tensor | None:
        return None if x is None else x.to(dtype).expand(*shape, *x.shape[-2:]).contiguous()

    read, written, decay = (None, None, None)
    if weighed is not None:
        by_q, by_k, decay = weighed
        decay = None if decay is None else decay.expand(*decay.shape[:-2], size, size)
        if by_q is not q or by_k is not k:
            q, k, read, written = by_q, by_k, q, k
    given = [whole(x) for x in (q, k, u, w, weights)] + [whole(decay, torch.float32)]
    given += [whole(read), whole(written), whole(keep, torch.float32)]
    o, _, end = _scan(*given, start.float().expand(*shape[1:], *start.shape[-2:]).contiguous())  # type: ignore[arg-type]
    return o, end
