"""The parts of a model that no rule changes, for GPUs: embedding, SwiGLU, the way to the logits, the loss.

    embed                 the tokens' rows of a table
    swiglu                x + W_down (SiLU(n W_1) · n W_2),  n = RMSNorm(x)
    unembed               RMSNorm(x) W + b
    loss_and_predictions  mean cross-entropy, likeliest class

Matrix products are cuBLAS's. Between them stand Triton kernels whose sizes are all known at run time only:
they are compiled once for a machine, whatever the rule, the length, the vocabulary and the number of members,
where PyTorch's compiler would compile each part for each shape. The plain forms (`archer.model.backbone`,
`archer.fleet.fleet`) are their references.

F runs, B sequences, T tokens, D width, I inner width, V classes; R = B T rows a run. Arithmetic between
products is in float32; under autocast activations are stored as it says.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from archer.fleet.data import IGNORED
from archer.model.layers import RMS_EPSILON, embedding_gradient
from archer.rules.launch import launch

ROWS = 16
"""Rows that one program handles at a time."""
SHARES = 64
"""Into so many sums the gradient of a run's norm is divided: the same for any number of runs."""
BLOCK = 1024
"""Numbers that one program of the gate handles."""
CLASSES = 64
"""Classes that one program of the loss handles at a time."""


@triton.jit
def _look_up(table, tokens, out, R, V, D, total, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows [F R, D] of tables [F, V, D]; NaN for a token that has none."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)[None, :]
    inside = (rows < total)[:, None] & (columns < D)
    token = tl.load(tokens + rows, mask=rows < total, other=-1).to(tl.int64)
    known = inside & ((token >= 0) & (token < V))[:, None]
    at = ((rows // R) * V + token)[:, None] * D + columns
    found = tl.load(table + at, mask=known, other=float("nan"))
    tl.store(out + rows.to(tl.int64)[:, None] * D + columns, found, mask=inside)


@triton.jit
def _norm_forward(x, weight, y, R, D, total, EPSILON: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """y = x / rms(x) · weight, rows [F R, D], weight [F, D]."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)[None, :]
    inside = (rows < total)[:, None] & (columns < D)
    at = rows.to(tl.int64)[:, None] * D + columns
    wide = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + (rows // R)[:, None] * D + columns, mask=inside, other=0.0).to(tl.float32)
    shrink = tl.rsqrt(tl.sum(wide * wide, 1) / D + EPSILON)[:, None]
    tl.store(y + at, wide * shrink * scale, mask=inside)


@triton.jit
def _norm_backward(
    x, weight, dy, above, dx, dweight, R, D, each,
    ABOVE: tl.constexpr, EPSILON: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dx [F R, D], and dweight [F, shares, D]: of each run's rows, a share takes `each` blocks.

    above: a gradient that passes by the norm and is added to dx.
    """
    run, share = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, WIDTH)[None, :]
    scale = tl.load(weight + run * D + columns, mask=columns < D, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for block in range(share * each, (share + 1) * each):
        rows = block * ROWS + tl.arange(0, ROWS)
        inside = (rows < R)[:, None] & (columns < D)
        at = (run.to(tl.int64) * R + rows)[:, None] * D + columns
        wide = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        shrink = tl.rsqrt(tl.sum(wide * wide, 1) / D + EPSILON)[:, None]
        unit = wide * shrink
        total += gradient * unit
        gradient *= scale
        out = (gradient - unit * (tl.sum(gradient * unit, 1) / D)[:, None]) * shrink
        if ABOVE:
            out += tl.load(above + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, out, mask=inside)
    sums = tl.sum(total, 0)[None, :]
    tl.store(dweight + (run * tl.num_programs(1) + share) * D + columns, sums, mask=columns < D)


@triton.jit
def _gate_forward(up, hidden, inner, total, BLOCK: tl.constexpr):
    """hidden = SiLU(g) · v for up = [g, v], rows of `inner` and of twice as many numbers."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    at = (index // inner) * (2 * inner) + index % inner
    gate = tl.load(up + at, mask=index < total, other=0.0).to(tl.float32)
    value = tl.load(up + at + inner, mask=index < total, other=0.0).to(tl.float32)
    tl.store(hidden + index, gate * tl.sigmoid(gate) * value, mask=index < total)


@triton.jit
def _gate_backward(up, dhidden, dup, hidden, inner, total, BLOCK: tl.constexpr):
    """The gradient of up; and hidden once more, which nobody kept."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    at = (index // inner) * (2 * inner) + index % inner
    gate = tl.load(up + at, mask=index < total, other=0.0).to(tl.float32)
    value = tl.load(up + at + inner, mask=index < total, other=0.0).to(tl.float32)
    gradient = tl.load(dhidden + index, mask=index < total, other=0.0).to(tl.float32)
    open_by = tl.sigmoid(gate)
    silu = gate * open_by
    tl.store(hidden + index, silu * value, mask=index < total)
    tl.store(dup + at, gradient * value * (open_by + silu * (1 - open_by)), mask=index < total)
    tl.store(dup + at + inner, gradient * silu, mask=index < total)


@triton.jit
def _add(x, y, out, total, BLOCK: tl.constexpr):
    """out = x + y, as wide as x. PyTorch's own takes half as long again where y is narrower than x."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    wide = tl.load(x + index, mask=index < total, other=0.0)
    tl.store(out + index, wide + tl.load(y + index, mask=index < total, other=0.0), mask=index < total)


@triton.jit
def _loss_forward(
    logits, targets, losses, logarithms, predictions, V, total,
    IGNORED: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Per row: the cross-entropy (0 where nothing is scored), log Σ exp, and the likeliest class."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < total
    target = tl.load(targets + rows, mask=inside, other=IGNORED)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    place = tl.zeros((ROWS,), tl.int32)
    mass = tl.zeros((ROWS,), tl.float32)
    wanted = tl.zeros((ROWS,), tl.float32)
    for first in range(0, V, CLASSES):
        columns = (first + tl.arange(0, CLASSES))[None, :]
        at = rows.to(tl.int64)[:, None] * V + columns
        known = inside[:, None] & (columns < V)
        z = tl.load(logits + at, mask=known, other=float("-inf")).to(tl.float32)
        top = tl.max(z, 1)
        place = tl.where(top > best, first + tl.argmax(z, 1), place)
        higher = tl.maximum(best, top)
        mass = mass * tl.exp(best - higher) + tl.sum(tl.exp(z - higher[:, None]), 1)
        wanted += tl.sum(tl.where(columns == target[:, None], z, 0.0), 1)
        best = higher
    logarithm = best + tl.log(mass)
    tl.store(logarithms + rows, logarithm, mask=inside)
    tl.store(predictions + rows, place.to(tl.int64), mask=inside)
    tl.store(losses + rows, tl.where(target != IGNORED, logarithm - wanted, 0.0), mask=inside)


@triton.jit
def _loss_backward(
    logits, targets, logarithms, factor, dlogits, R, V, total,
    IGNORED: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """dlogits = (softmax - one-hot) · factor of the run, 0 where nothing is scored."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = (tl.program_id(1) * CLASSES + tl.arange(0, CLASSES))[None, :]
    inside = (rows < total)[:, None] & (columns < V)
    target = tl.load(targets + rows, mask=rows < total, other=IGNORED)[:, None]
    logarithm = tl.load(logarithms + rows, mask=rows < total, other=0.0)[:, None]
    scale = tl.load(factor + rows // R, mask=rows < total, other=0.0)[:, None]
    at = rows.to(tl.int64)[:, None] * V + columns
    share = tl.exp(tl.load(logits + at, mask=inside, other=float("-inf")).to(tl.float32) - logarithm)
    gradient = (share - tl.where(columns == target, 1.0, 0.0)) * scale
    tl.store(dlogits + at, tl.where(target != IGNORED, gradient, 0.0), mask=inside)


def _blocks(total: int, size: int) -> int:
    return -(-total // size)


def _norm(x: Tensor, weight: Tensor, kind: torch.dtype) -> Tensor:
    """RMSNorm of rows [F, R, D] with weight [F, D], stored as `kind`."""
    runs, rows, width = x.shape
    y = torch.empty_like(x, dtype=kind)
    launch(
        _norm_forward, (_blocks(runs * rows, ROWS),), x, weight, y, rows, width, runs * rows,
        EPSILON=RMS_EPSILON, ROWS=ROWS, WIDTH=_power(width),
    )  # fmt: skip
    return y


def _norm_gradients(x: Tensor, weight: Tensor, dy: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of x [F, R, D] and weight [F, D]."""
    runs, rows, width = x.shape
    dx, shares = torch.empty_like(x), x.new_empty(runs, SHARES, width, dtype=torch.float32)
    each = _blocks(_blocks(rows, ROWS), SHARES)
    launch(
        _norm_backward, (runs, SHARES), x, weight, dy, above, dx, shares, rows, width, each,
        ABOVE=above is not None, EPSILON=RMS_EPSILON, ROWS=ROWS, WIDTH=_power(width),
    )  # fmt: skip
    return dx, shares.sum(1).to(weight.dtype)


def _power(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << (size - 1).bit_length()


def _kind(x: Tensor) -> torch.dtype:
    """What activations are stored as: autocast's precision, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Embedding(torch.autograd.Function):
    """PyTorch's own takes five times as long as writing the rows does (0.48 ms for 48 runs on an H200)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, tokens: Tensor) -> Tensor:
        (_, classes, width), count = table.shape, tokens.numel()
        out = table.new_empty(*tokens.shape, width)
        launch(
            _look_up, (_blocks(count, ROWS),), table.contiguous(), tokens.contiguous(), out,
            tokens[0].numel(), classes, width, count, ROWS=ROWS, WIDTH=_power(width),
        )  # fmt: skip
        ctx.save_for_backward(tokens)
        ctx.rows = classes
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        return embedding_gradient(gradients[0], tokens, ctx.rows), None


class _SwiGLU(torch.autograd.Function):
    """x + W_down (SiLU(n W_1) · n W_2), n = RMSNorm(x). Kept for the gradient: x and n [W_1, W_2]."""

    @staticmethod
    def forward(ctx: Any, norm: Tensor, up: Tensor, down: Tensor, x: Tensor) -> Tensor:
        flat, norm, kind = x.flatten(1, -2).contiguous(), norm.contiguous(), _kind(x)
        narrow_up, narrow_down = up.to(kind), down.to(kind)
        both = torch.bmm(_norm(flat, norm, kind), narrow_up)
        hidden = both.new_empty(*both.shape[:-1], down.shape[1])
        launch(
            _gate_forward, (_blocks(hidden.numel(), BLOCK),), both, hidden, hidden.shape[-1], hidden.numel(),
            BLOCK=BLOCK,
        )  # fmt: skip
        ctx.save_for_backward(flat, norm, narrow_up, narrow_down, both)
        out = torch.empty_like(flat)
        launch(
            _add, (_blocks(out.numel(), BLOCK),), flat, torch.bmm(hidden, narrow_down), out, out.numel(),
            BLOCK=BLOCK,
        )  # fmt: skip
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, norm, up, down, both = ctx.saved_tensors
        above = gradients[0].flatten(1, -2).contiguous()
        dy = above.to(up.dtype)
        dhidden = torch.bmm(dy, down.mT)
        dboth, hidden = torch.empty_like(both), torch.empty_like(dhidden)
        launch(
            _gate_backward, (_blocks(hidden.numel(), BLOCK),), both, dhidden, dboth, hidden, hidden.shape[-1],
            hidden.numel(), BLOCK=BLOCK,
        )  # fmt: skip
        ddown = torch.bmm(hidden.mT, dy)
        dup = torch.bmm(_norm(x, norm, up.dtype).mT, dboth)
        dx, dnorm = _norm_gradients(x, norm, torch.bmm(dboth, up.mT), above)
        return dnorm, dup.to(norm.dtype), ddown.to(norm.dtype), dx.view(gradients[0].shape)


class _Unembed(torch.autograd.Function):
    """RMSNorm(x) W + b."""

    @staticmethod
    def forward(ctx: Any, norm: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        flat, norm, kind = x.flatten(1, -2).contiguous(), norm.contiguous(), _kind(x)
        narrow = weight.to(kind)
        logits = torch.baddbmm(bias.to(kind)[:, None], _norm(flat, norm, kind), narrow)
        ctx.save_for_backward(flat, norm, narrow)
        return logits.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, norm, weight = ctx.saved_tensors
        dlogits = gradients[0].flatten(1, -2)
        dweight = torch.bmm(_norm(x, norm, weight.dtype).mT, dlogits).to(norm.dtype)
        dbias = dlogits.sum(1, dtype=norm.dtype)
        dx, dnorm = _norm_gradients(x, norm, torch.bmm(dlogits, weight.mT), None)
        return dnorm, dweight, dbias, dx.view(*gradients[0].shape[:-1], -1)


class _Loss(torch.autograd.Function):
    """Mean cross-entropy over scored positions, and the likeliest classes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, targets, runs = logits.contiguous(), targets.contiguous(), logits.shape[0]
        losses, predictions = torch.empty_like(targets, dtype=torch.float32), torch.empty_like(targets)
        logarithms = torch.empty_like(losses)
        launch(
            _loss_forward, (_blocks(targets.numel(), ROWS),), logits, targets, losses, logarithms,
            predictions, logits.shape[-1], targets.numel(), IGNORED=IGNORED, ROWS=ROWS, CLASSES=CLASSES,
        )  # fmt: skip
        scored = (targets != IGNORED).view(runs, -1).sum(1).clamp_min(1)
        ctx.save_for_backward(logits, targets, logarithms, scored)
        ctx.mark_non_differentiable(predictions)
        return losses.view(runs, -1).sum(1) / scored, predictions

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, logarithms, scored = ctx.saved_tensors
        dlogits, classes = torch.empty_like(logits), logits.shape[-1]
        launch(
            _loss_backward, (_blocks(targets.numel(), ROWS), _blocks(classes, CLASSES)), logits, targets,
            logarithms, gradients[0] / scored, dlogits, targets[0].numel(), classes, targets.numel(),
            IGNORED=IGNORED, ROWS=ROWS, CLASSES=CLASSES,
        )  # fmt: skip
        return dlogits, None


def embed(table: Tensor, tokens: Tensor) -> Tensor:
    """table [F, V, D], tokens [F, B, T] in 0..V-1; returns [F, B, T, D]."""
    return _Embedding.apply(table, tokens)  # type: ignore[return-value]


def swiglu(norm: Tensor, up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    """x [F, B, T, D], norm [F, D], up [F, D, 2 I], down [F, I, D]; returns [F, B, T, D]."""
    return _SwiGLU.apply(norm, up, down, x)  # type: ignore[return-value]


def unembed(norm: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """x [F, B, T, D], norm [F, D], weight [F, D, V], bias [F, V]; returns [F, B, T, V]."""
    return _Unembed.apply(norm, weight, bias, x)  # type: ignore[return-value]


def loss_and_predictions(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As `archer.fleet.fleet.loss_and_predictions`: logits [F, B, T, V], targets [F, B, T]."""
    return _Loss.apply(logits, targets)  # type: ignore[return-value]


PARTS = {"embed": embed, "swiglu": swiglu, "unembed": unembed, "loss": loss_and_predictions}
"""By the names that the model gives to its regions."""
