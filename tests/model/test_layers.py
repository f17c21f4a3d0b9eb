"""The fleet's layers against PyTorch's own, run by run."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from archer.model.layers import (
    embed,
    l2_normalise,
    linear,
    rms_norm,
    short_convolution,
    sinusoid_positions,
)

F, B, T, D = 3, 2, 7, 12


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_pytorchs_for_each_run(bias: bool) -> None:
    x, weight, offset = draw(F, B, T, D), draw(F, D, 5, seed=1), draw(F, 5, seed=2)
    y = linear(x, weight, offset if bias else None)
    for run in range(F):
        expected = functional.linear(x[run], weight[run].mT, offset[run] if bias else None)
        torch.testing.assert_close(y[run], expected)


def test_the_embeddings_gradient_is_that_of_index_add() -> None:
    table, seen = draw(F, 9, D).requires_grad_(), draw(F, B, T, D, seed=1)
    tokens = torch.randint(0, 8, (F, B, T), generator=torch.Generator().manual_seed(2))  # token 8 never
    rows = embed(table, tokens)
    assert torch.equal(rows, torch.stack([table[run][tokens[run]] for run in range(F)]))
    (gradient,) = torch.autograd.grad((rows * seen).sum(), table)
    for run in range(F):
        expected = torch.zeros(9, D, dtype=torch.float64)
        expected.index_add_(0, tokens[run].flatten(), seen[run].flatten(0, 1))
        torch.testing.assert_close(gradient[run], expected)
    assert gradient[:, 8].abs().max() == 0


@pytest.mark.parametrize("length", [1, 2, 3, 4, 33])
def test_the_short_convolution_is_conv1d_with_groups(length: int) -> None:
    x, weight = draw(F, B, length, D).requires_grad_(), draw(F, 4, D, seed=1).requires_grad_()
    y = short_convolution(x, weight)
    expected = torch.stack(
        [
            functional.conv1d(functional.pad(x[run].mT, (3, 0)), weight[run].mT[:, None], groups=D).mT
            for run in range(F)
        ]
    )
    torch.testing.assert_close(y, expected)
    mine = torch.autograd.grad(y.square().sum(), (x, weight))
    theirs = torch.autograd.grad(expected.square().sum(), (x, weight))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_rms_norm_is_pytorchs_for_each_run() -> None:
    x, weight = draw(F, B, T, D) * 3, draw(F, D, seed=1)
    y = rms_norm(x, weight[:, None, None])
    for run in range(F):
        torch.testing.assert_close(y[run], functional.rms_norm(x[run], (D,), weight[run], eps=1e-5))


def test_rms_norm_computes_in_float32() -> None:
    x = (draw(F, B, T, D) * 100).bfloat16()
    y = rms_norm(x, torch.ones(F, 1, 1, D))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, functional.rms_norm(x.float(), (D,), eps=1e-5))


def test_l2_normalise_is_pytorchs() -> None:
    x = draw(F, B, T, D)
    torch.testing.assert_close(l2_normalise(x), functional.normalize(x, dim=-1), atol=1e-6, rtol=1e-6)
    assert l2_normalise(torch.zeros(2, D)).abs().max() == 0
    assert l2_normalise(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("width", [12, 13])
def test_positions_are_sines_and_cosines_with_geometric_wavelengths(width: int) -> None:
    features, half = sinusoid_positions(20, width), width // 2
    assert features.shape == (20, width)
    for position in (0, 1, 19):
        for wave in (0, 1, half - 1):
            angle = torch.tensor(position / 10000.0 ** (wave / (half - 1)))
            torch.testing.assert_close(features[position, wave], angle.sin(), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(features[position, half + wave], angle.cos(), atol=1e-5, rtol=1e-5)


def test_position_features_are_compiled_in_one_piece() -> None:
    """Nothing in them has to be looked at while a step is traced."""
    compiled = torch.compile(sinusoid_positions, backend="eager", fullgraph=True)
    assert torch.equal(compiled(20, 16), sinusoid_positions(20, 16))
