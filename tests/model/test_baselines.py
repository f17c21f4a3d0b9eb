"""The baselines: causal, of one size, finite, and equal to their token-by-token recurrences."""

import pytest
import torch

from archer.errors import UserError
from archer.model.baselines import BASELINES, baseline, fading_attention, linear_recurrence


def make(name, width=32, heads=4, seed=0):
    torch.manual_seed(seed)
    return baseline(name, width, heads).double()


@pytest.fixture(params=sorted(BASELINES))
def name(request):
    return request.param


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 100])
def test_any_length_and_no_future(name, length):
    mixer = make(name)
    x = torch.randn(2, length, 32, dtype=torch.float64)
    y = mixer(x)
    assert y.shape == x.shape
    for first in {1, 16, length // 2, length - 1} & set(range(1, length)):
        changed = torch.cat((x[:, :first], torch.randn_like(x[:, first:])), dim=1)
        assert torch.equal(mixer(changed)[:, :first], y[:, :first])
        torch.testing.assert_close(mixer(x[:, :first]), y[:, :first], rtol=1e-9, atol=1e-9)


def test_the_past_matters_over_many_chunks(name):
    mixer = make(name)
    x = torch.randn(1, 60, 32, dtype=torch.float64)
    changed = torch.cat((torch.randn_like(x[:, :1]), x[:, 1:]), dim=1)
    assert (mixer(changed) - mixer(x))[:, -1].abs().max() > 1e-9


@pytest.mark.parametrize("width", [64, 128, 256])
def test_the_size_is_that_of_a_delta_layer(name, width):
    parameters = sum(p.numel() for p in baseline(name, width, 4).parameters())
    assert parameters == pytest.approx(4 * width**2, rel=0.12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_parameter_learns(name, dtype):
    mixer = make(name).to(dtype)
    y = mixer(torch.randn(2, 40, 32, dtype=dtype))
    assert y.dtype == dtype
    y.float().square().sum().backward()
    for label, parameter in mixer.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.isfinite().all(), label
        assert parameter.grad.abs().sum() > 0, label


def test_sequences_do_not_see_each_other(name):
    mixer = make(name)
    x = torch.randn(3, 20, 32, dtype=torch.float64)
    torch.testing.assert_close(mixer(x)[1:2], mixer(x[1:2]), rtol=1e-10, atol=1e-10)


def test_a_fleet_by_vmap_equals_each_run(name):
    mixers = [make(name, seed=seed) for seed in (0, 1)]
    stacked = {
        n: torch.stack([dict(m.named_parameters())[n] for m in mixers])
        for n, _ in mixers[0].named_parameters()
    }
    x = torch.randn(2, 3, 20, 32, dtype=torch.float64)
    y = torch.func.vmap(lambda p, z: torch.func.functional_call(mixers[0], p, (z,)))(stacked, x)
    for run, mixer in enumerate(mixers):
        torch.testing.assert_close(y[run], mixer(x[run]), rtol=1e-9, atol=1e-9)


def test_fading_attention_is_its_recurrence_however_strong_the_fading():
    q, k, v = (torch.randn(2, 50, 4, dtype=torch.float64) for _ in range(3))
    log_fade = -torch.randn(2, 50, 4, dtype=torch.float64).exp() * 30
    S, expected = torch.zeros(2, 4, 4, dtype=torch.float64), []
    for t in range(50):
        S = log_fade[:, t].exp()[..., None] * S + k[:, t, :, None] * v[:, t, None]
        expected.append((q[:, t, None] @ S).squeeze(-2))
    torch.testing.assert_close(
        fading_attention(q, k, v, log_fade), torch.stack(expected, 1), rtol=1e-9, atol=1e-9
    )


def test_the_linear_recurrence_is_what_it_says():
    fade, added = torch.rand(2, 50, 5, dtype=torch.float64), torch.randn(2, 50, 5, dtype=torch.float64)
    h, expected = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(50):
        h = fade[:, t] * h + added[:, t]
        expected.append(h)
    torch.testing.assert_close(
        linear_recurrence(fade, added), torch.stack(expected, 1), rtol=1e-10, atol=1e-10
    )


def test_mistakes_are_explained():
    with pytest.raises(UserError, match="did you mean 'mamba'"):
        baseline("mambo", 32)
    with pytest.raises(UserError, match="width 30 must be an even multiple of 4"):
        baseline("attention", 30, 4)
