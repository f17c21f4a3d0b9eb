"""The backbones and the token mixers in them: what a fleet computes is what each run computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from archer.errors import UserError
from archer.model.backbone import Model
from archer.model.mixer import ModuleMixer, RuleMixer
from archer.rules import get_rule

BACKBONES = ["language-model", "auto-encoder"]
SEEDS = [0, 1, 2]


def model(rule: str = "gated_delta_net", backbone: str = "language-model") -> Model:
    mixer = RuleMixer(get_rule(rule), width=32, heads=2, chunk_size=8)
    return Model(mixer, backbone, vocabulary=11, width=32, mixers=2, length=24)  # type: ignore[arg-type]


def tokens(runs: int = 3, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 11, (runs, 2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_fleets_logits_are_each_runs_own(backbone: str) -> None:
    one, x = model(backbone=backbone), tokens()
    together = one.logits(one.initial_parameters(SEEDS), x)
    assert together.shape == (3, 2, 24, 11)
    for run, seed in enumerate(SEEDS):
        alone = one.logits(one.initial_parameters([seed]), x[run : run + 1])
        torch.testing.assert_close(together[run], alone[0], atol=1e-5, rtol=1e-5)


def test_the_language_model_is_its_formula() -> None:
    """embed, twice x + mixer(norm x) and x + SwiGLU(norm x), norm, linear; with PyTorch's own parts."""
    one, x = model(), tokens(runs=1)
    p = {name: value[0].double() for name, value in one.initial_parameters([0]).items()}
    h = p["embed"][x[0]]
    for block in "01":
        own = {n.split(".", 2)[2]: v[None] for n, v in p.items() if n.startswith(f"{block}.mixer.")}
        h = h + one.mixer(own, functional.rms_norm(h, (32,), p[f"{block}.mixer_norm"], eps=1e-5)[None])[0]
        up = functional.rms_norm(h, (32,), p[f"{block}.swiglu_norm"], eps=1e-5) @ p[f"{block}.up"]
        h = h + (functional.silu(up[..., : one.inner]) * up[..., one.inner :]) @ p[f"{block}.down"]
    logits = functional.rms_norm(h, (32,), p["norm"], eps=1e-5) @ p["unembed"] + p["unembed_bias"]
    fleet = {name: value[None] for name, value in p.items()}
    torch.testing.assert_close(one.logits(fleet, x)[0], logits)


def test_the_auto_encoder_keeps_one_vector_and_writes_every_position() -> None:
    """Whatever the tokens before were, the decoder sees the last vector alone: one number changes all."""
    one = model(backbone="auto-encoder")
    parameters, x = one.initial_parameters([0]), tokens(runs=1)
    other = x.clone()
    other[..., 0] = (x[..., 0] + 1) % 11
    changed = (one.logits(parameters, x) - one.logits(parameters, other)).abs().amax((0, 1, 3))
    assert changed.min() > 0
    positions = one.logits(parameters, x)[0, 0]
    assert (positions[1:] - positions[:-1]).abs().amax(-1).min() > 0, "positions are not told apart"


def test_the_language_model_reads_no_future() -> None:
    one, x = model(), tokens()
    parameters, other = one.initial_parameters(SEEDS), x.clone()
    other[..., 10:] = (x[..., 10:] + 1) % 11
    first, second = one.logits(parameters, x), one.logits(parameters, other)
    assert torch.equal(first[:, :, :10], second[:, :, :10])
    assert (first[:, :, 10:] - second[:, :, 10:]).abs().max() > 0


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("rule", ["delta_net", "gated_delta_net", "softmax"])
def test_bf16_is_close_to_fp32(rule: str, backbone: str) -> None:
    """Loss and the likeliest class, as training uses them. bf16 keeps 8 bits: three decimal digits."""
    one, x = model(rule, backbone), tokens()
    parameters = one.initial_parameters(SEEDS)
    wide = one.logits(parameters, x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = one.logits(parameters, x)
    assert not torch.equal(wide, narrow.float()), "autocast changed nothing, so nothing was compared"
    error = (narrow.float() - wide).square().mean().sqrt() / wide.square().mean().sqrt()
    assert error < 0.03
    losses = [functional.cross_entropy(y.flatten(0, 2).float(), x.flatten()) for y in (wide, narrow)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=2e-3)


class Noisy(nn.Module):
    """A module that draws its first values; [B, T, D] to [B, T, D]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.rand(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(functional.gelu(self.first(x)).cumsum(1)) * self.scale


def test_a_module_in_a_fleet_is_the_module_alone() -> None:
    """Outputs and gradients of three runs by vmap, against three modules."""
    mixer = ModuleMixer("noisy", Noisy)
    drawn = [mixer.initial_values(seed) for seed in SEEDS]
    stacked = {name: torch.stack([d[name] for d in drawn]).requires_grad_() for name in drawn[0]}
    x = torch.randn(3, 2, 9, 32, generator=torch.Generator().manual_seed(0))
    y = mixer(stacked, x)
    gradients = dict(zip(stacked, torch.autograd.grad(y.square().sum(), list(stacked.values())), strict=True))
    for run in range(3):
        alone = Noisy()
        alone.load_state_dict(drawn[run])
        expected = alone(x[run])
        torch.testing.assert_close(y[run], expected, atol=1e-5, rtol=1e-5)
        expected.square().sum().backward()
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(gradients[name][run], parameter.grad, atol=1e-3, rtol=1e-4)


def test_a_modules_first_values_are_its_own_under_the_runs_seed() -> None:
    one = Model(ModuleMixer("noisy", Noisy), "language-model", 11, 32, 2, 24)
    state = torch.get_rng_state()
    together, alone = one.initial_parameters([0, 1]), one.initial_parameters([1])
    assert torch.equal(torch.get_rng_state(), state)
    weight = "0.mixer.first.weight"
    assert torch.equal(together[weight][1], alone[weight][0])
    assert (together[weight][0] - together[weight][1]).abs().max() > 0.1
    assert (together[weight][0] - together["1.mixer.first.weight"][0]).abs().max() > 0.1
    assert together[weight].abs().max() <= 32**-0.5


def test_a_width_that_no_number_of_heads_divides_is_refused() -> None:
    with pytest.raises(UserError, match="width 30 is no multiple of 4 heads"):
        RuleMixer(get_rule("delta_net"), width=30, heads=4)
