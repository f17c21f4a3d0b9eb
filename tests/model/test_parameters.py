"""First values: they depend on name, shape and seed, and on nothing else; and how many there are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archer.model.backbone import Model
from archer.model.mixer import RuleMixer
from archer.model.parameters import Initial, ParameterSpec, count, initialise
from archer.rules import get_rule, rule_names

WIDTH, HEADS, VOCABULARY, LENGTH = 128, 4, 16, 128
INNER = 352
"""mad-lab's SwiGLU: two thirds of 4 · 128, cut to a whole number, rounded up to a multiple of 16."""


def model(rule: str = "delta_net", backbone: str = "language-model", **changes: int) -> Model:
    sizes = {"vocabulary": VOCABULARY, "width": WIDTH, "mixers": 2, "length": LENGTH, **changes}
    return Model(RuleMixer(get_rule(rule), sizes["width"], HEADS), backbone, **sizes)  # type: ignore[arg-type]


def parts(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def mad_block(mixer: nn.Module) -> nn.Module:
    """A token mixer and a SwiGLU of mad-lab, each behind its norm; no bias anywhere."""
    swiglu = nn.ModuleList([nn.Linear(WIDTH, 2 * INNER, bias=False), nn.Linear(INNER, WIDTH, bias=False)])
    return nn.ModuleList([nn.RMSNorm(WIDTH), mixer, nn.RMSNorm(WIDTH), swiglu])


def delta_layer() -> nn.Module:
    """DeltaNet's layer (Yang 2024): q, k, v with a convolution of 4 each, beta per head, norm, output."""
    linear = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)]
    convolutions = [nn.Conv1d(WIDTH, WIDTH, 4, groups=WIDTH, bias=False) for _ in range(3)]
    return nn.ModuleList(
        [*linear, *convolutions, nn.Linear(WIDTH, HEADS, bias=False), nn.RMSNorm(WIDTH // HEADS)]
    )


def mad_model(backbone: str) -> nn.Module:
    """mad-lab's backbones with two DeltaNet layers, as far as their sizes go."""
    blocks = [mad_block(delta_layer()) for _ in range(2)]
    decoder = [nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WIDTH)]
    ends = [nn.Embedding(VOCABULARY, WIDTH), nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)]
    return nn.ModuleList([*ends, *blocks, *(decoder if backbone == "auto-encoder" else ())])


@pytest.mark.parametrize("backbone", ["language-model", "auto-encoder"])
def test_the_size_is_mad_labs(backbone: str) -> None:
    mine = model(backbone=backbone)
    assert mine.inner == INNER
    assert mine.parameters == parts(mad_model(backbone))
    values = mine.initial_parameters([0])
    assert sum(value.numel() for value in values.values()) == mine.parameters


@pytest.mark.parametrize("vocabulary", [16, 256])
def test_a_larger_vocabulary_costs_its_rows(vocabulary: int) -> None:
    more = model(vocabulary=vocabulary).parameters - model(vocabulary=1).parameters
    assert more == (vocabulary - 1) * (2 * WIDTH + 1)


def test_a_fleet_starts_as_its_runs_do_alone() -> None:
    one = model(width=32)
    together = one.initial_parameters([3, 0, 3, 7])
    for index, seed in enumerate([3, 0, 3, 7]):
        alone = one.initial_parameters([seed])
        assert all(torch.equal(together[name][index], alone[name][0]) for name in alone)


def test_rules_start_from_the_same_numbers_where_they_share_parameters() -> None:
    base = model("delta_net", width=32).initial_parameters([5])
    shared = 0
    for name in rule_names():
        other = model(name, width=32).initial_parameters([5])
        same = [key for key in base if key in other and base[key].shape == other[key].shape]
        assert {"embed", "0.up", "1.down", "unembed"} <= set(same)
        assert all(torch.equal(base[key], other[key]) for key in same), name
        shared += len(same)
    assert shared > 20 * len(rule_names())


def test_neither_the_order_nor_the_neighbours_matter() -> None:
    specs = [ParameterSpec(name, (4, 3), Initial("normal", 1.0)) for name in "abc"]
    forwards, backwards = initialise(specs, [1]), initialise(specs[::-1], [1])
    state = torch.get_rng_state()
    assert torch.equal(initialise(specs[1:2], [1])["b"], forwards["b"])
    assert all(torch.equal(forwards[name], backwards[name]) for name in forwards)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"


def test_names_and_seeds_make_different_numbers() -> None:
    specs = [ParameterSpec(name, (50,), Initial("uniform", 1.0)) for name in "ab"]
    drawn = initialise(specs, [0, 1])
    rows = [drawn["a"][0], drawn["a"][1], drawn["b"][0], drawn["b"][1]]
    assert all((one - other).abs().max() > 0.1 for i, one in enumerate(rows) for other in rows[:i])


def test_the_first_values_never_change() -> None:
    """A ledger's runs can be trained again for as long as these numbers stay."""
    drawn = initialise([ParameterSpec("embed", (2, 2), Initial("normal", 0.02))], [0])["embed"]
    expected = torch.tensor([[[-0.0027594112, 0.0124545014], [-0.0255888328, -0.0008402708]]])
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-8)


def test_the_auto_encoder_starts_from_normals_of_deviation_0_02() -> None:
    """mad-lab draws its linear weights so; those of the language model are PyTorch's uniform ones."""
    one = model(backbone="auto-encoder")
    values = one.initial_parameters([0, 1])
    weights = [s.name for s in one.specs if len(s.shape) == 2 and ".conv." not in s.name]
    assert {"embed", "0.mixer.project.q", "0.mixer.out", "1.up", "1.down", "decoder.1.weight", "unembed"} <= {
        *weights
    }
    for name in weights:
        assert values[name].std().item() == pytest.approx(0.02, rel=0.1), name
        assert values[name].abs().max() > 0.05, f"{name} is not normal"
    assert values["decoder.0.bias"].abs().max() == 0


def test_projections_of_the_mixer_start_from_glorots_draw_with_a_small_gain() -> None:
    values = model().initial_parameters([0])
    for name, outputs in {"1.mixer.project.v": WIDTH, "0.mixer.out": WIDTH}.items():
        bound = 2**-2.5 * (6 / (WIDTH + outputs)) ** 0.5
        assert values[name].abs().max().item() == pytest.approx(bound, rel=0.01), name
        assert values[name].std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name


def test_the_language_model_starts_from_pytorchs_uniform_weights() -> None:
    values = model().initial_parameters([0])
    assert values["embed"].std().item() == pytest.approx(0.02, rel=0.05)
    for name, inputs in {
        "0.up": WIDTH,
        "0.down": INNER,
        "unembed": WIDTH,
    }.items():
        bound = inputs**-0.5
        assert values[name].abs().max().item() == pytest.approx(bound, rel=0.01), name
        assert values[name].std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
    assert values["0.mixer.conv.q"].abs().max().item() == pytest.approx(0.5, rel=0.01)
    assert values["unembed_bias"].abs().max() == 0


def test_count_is_the_sum_of_the_shapes() -> None:
    specs = [ParameterSpec("a", (3, 4), Initial("constant")), ParameterSpec("b", (), Initial("constant"))]
    assert count(specs) == 13
