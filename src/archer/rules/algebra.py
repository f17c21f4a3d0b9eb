"""The algebra under every rule: the WY form of a chunk of delta-rule writes (Yang 2024, arXiv:2406.06484).

Shapes: [..., C, D]; C tokens of one chunk, D the width of a key (Dk) or value (Dv).
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archer.rules.rule import RuleError


class _UnitLowerInverse(torch.autograd.Function):
    """(I + A)⁻¹ for strictly lower triangular A, with the short gradient -Tᵀ (dL/dT) Tᵀ."""

    generate_vmap_rule = True

    @staticmethod
    def forward(strictly_lower: Tensor) -> Tensor:  # type: ignore[override]
        return invert_unit_lower_plainly(strictly_lower)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # type: ignore[override]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        transposed = inverse.mT
        return -(transposed @ gradients[0] @ transposed).tril(-1)


def invert_unit_lower_plainly(strictly_lower: Tensor) -> Tensor:
    """(I + A)⁻¹ [..., C, C] from the inverses of its diagonal blocks, twice as large at each step.

    With D the inverse of the two blocks and L what stands below the first, that of both is D - D L D. No
    number on the way is larger than those of the result; a product of powers of A loses all digits where
    keys repeat (32 equal keys: 5 times the result, against 2e-8 here, in float32).
    """
    size = strictly_lower.shape[-1]
    index = torch.arange(size, device=strictly_lower.device)
    identity = torch.eye(size, dtype=strictly_lower.dtype, device=strictly_lower.device)
    inverse, block = identity - strictly_lower * _below_diagonal_blocks(index, 1), 2
    while block < size:
        below = strictly_lower * _below_diagonal_blocks(index, block)
        inverse = inverse - inverse @ below @ inverse
        block *= 2
    return inverse


def _below_diagonal_blocks(index: Tensor, block: int) -> Tensor:
    """Where row and column lie in neighbouring blocks of one pair, the row in the second: [C, C]."""
    row, column = index[:, None] // block, index[None, :] // block
    return (row // 2 == column // 2) & (row % 2 == 1) & (column % 2 == 0)


def invert_unit_lower(strictly_lower: Tensor) -> Tensor:
    """(I + A)⁻¹ for strictly lower triangular A [..., C, C], in at least float32 precision."""
    dtype = torch.promote_types(strictly_lower.dtype, torch.float32)
    with torch.autocast(strictly_lower.device.type, enabled=False):
        return _UnitLowerInverse.apply(strictly_lower.to(dtype))  # type: ignore[return-value]


class _Kernels:
    """The module `archer.rules.kernels`, once somebody with a GPU has asked for it (it imports Triton).

    refused: the card cannot take them.
    """

    module: ModuleType | None = None
    refused = False


def enable_kernels() -> None:
    """From now on GPU tensors go through the Triton kernels, where sizes fit.

    Without Triton nothing changes, nor where they were refused.
    """
    if _Kernels.module is None and not _Kernels.refused and find_spec("triton") is not None:
        _Kernels.module = import_module("archer.rules.kernels")


def kernels_enabled() -> bool:
    """Whether somebody enabled them here and nobody refused them."""
    return _Kernels.module is not None


def refuse_kernels() -> None:
    """From now on this process does without them, which its card cannot take: large heads need more shared
    memory than it has."""
    _Kernels.module, _Kernels.refused = None, True


def kernels_for(k: Tensor, *sizes: int) -> Any:
    """The kernels, if they are enabled and take such tensors.

    That is on a GPU, in bfloat16 or float32, with all sizes powers of two from 16 to 128.
    """
    fits = all(size in (16, 32, 64, 128) for size in (k.shape[-1], *sizes))
    fits = fits and k.is_cuda and k.dtype in (torch.bfloat16, torch.float32)
    return _Kernels.module if fits else None


def wy(
    k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None = None, k_read: Tensor | None = None
) -> dict[str, Tensor]:
    """u = T V_beta and w = T K_beta with T = (I + tril(diag(beta) K Kᵀ, -1))⁻¹.

    k [..., C, Dk], v [..., C, Dv], beta [..., C, 1]; decay [..., C, C] multiplies K Kᵀ (for rules that
    forget inside the chunk), k_read stands in for K in w.
    """
    kernels = kernels_for(k, k.shape[-2], v.shape[-1])
    if kernels is not None:
        return kernels.wy(k, v, beta, decay, k_read)
    k_beta = k * beta
    overlap = k_beta @ k.mT
    if decay is not None:
        overlap = overlap * decay
    inverse = invert_unit_lower(overlap.tril(-1)).to(v.dtype)
    return {"u": inverse @ (v * beta), "w": inverse @ (k_beta if k_read is None else k_read * beta)}


def faded_products(rows: tuple[Tensor, ...], k: Tensor, faded: Tensor) -> list[Tensor]:
    """r_i · (exp(faded_i - faded_j) k_j) for all j ≤ i, and 0 for later j: [..., C, C] for each r of `rows`.

    rows, k [..., C, Dk]; faded [..., C, Dk]: the logarithm of what is left, in each channel, of what was
    there when the chunk began; it never rises. Tokens of neighbouring blocks meet in one product, for which
    both sides are faded to the last token of the first block: no exponential is above one, where dividing by
    exp(faded_j) would overflow. Tokens of one block of four meet pair by pair.
    """
    length, block, size = k.shape[-2], 4, 4
    while size < length:
        size *= 2
    if size > length:  # zeros behind the end, as faded as the last token
        more = size - length
        *padded, k = (torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (*rows, k))
        rows, last = tuple(padded), faded[..., -1:, :]
        faded = torch.cat((faded, last.expand(*last.shape[:-2], more, last.shape[-1])), dim=-2)
    near = faded.unflatten(-2, (-1, block))
    later = torch.ones(block, block, dtype=torch.bool, device=k.device).triu(1).unsqueeze(-1)
    between = (near.unsqueeze(-2) - near.unsqueeze(-3)).masked_fill(later, -torch.inf)
    faded_k = between.exp().to(k.dtype) * k.unflatten(-2, (-1, block)).unsqueeze(-3)
    products = [(r.unflatten(-2, (-1, block)).unsqueeze(-2) * faded_k).sum(-1) for r in rows]
    while block < size:
        first, second = faded.unflatten(-2, (-1, 2, block)).unbind(-3)
        meeting = first[..., -1:, :]
        from_first, to_second = (meeting - first).exp().to(k.dtype), (second - meeting).exp().to(k.dtype)
        keys = k.unflatten(-2, (-1, 2, block))[..., 0, :, :] * from_first
        for index, r in enumerate(rows):
            below = (r.unflatten(-2, (-1, 2, block))[..., 1, :, :] * to_second) @ keys.mT
            upper, lower = products[index].unflatten(-3, (-1, 2)).unbind(-3)
            above = torch.cat((upper, torch.zeros_like(upper)), dim=-1)
            products[index] = torch.cat((above, torch.cat((below.to(upper.dtype), lower), dim=-1)), dim=-2)
        block *= 2
    return [x.squeeze(-3)[..., :length, :length] for x in products]


def rotate(x: Tensor, position: Tensor, base: float = 10000.0) -> Tensor:
    """Turns the pairs (x_j, x_{j + D/2}) by position · base^(-2j/D) (Su 2021, arXiv:2104.09864).

    x [..., C, D] with even D, position [..., C, 1]; the angles are computed in float32.
    """
    half = x.shape[-1] // 2
    if x.shape[-1] != 2 * half:
        raise RuleError(
            f"a rotation turns pairs: the width of q and k is {x.shape[-1]}, expected an even number"
        )
    exponent = torch.arange(half, device=x.device, dtype=position.dtype) / half
    angle = position * base**-exponent
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat((left * cosine - right * sine, left * sine + right * cosine), dim=-1)
