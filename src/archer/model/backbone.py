"""The two models of MAD (Poli 2024, arXiv:2403.17844): a language model, and an auto-encoder for Compress.

    language model:  embed, then N times (x + mixer(norm(x)), x + swiglu(norm(x))), norm, linear
    auto-encoder:    the same trunk; the last token's vector plus a sinusoid for each position goes through
                     a two-layer decoder (norm, linear, GELU, twice), norm, linear

Width 128 and two mixers in MAD's own benchmark. Shapes: tokens [F, B, T], logits [F, B, T, V].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from archer.model.layers import embed, linear, rms_norm, sinusoid_positions
from archer.model.mixer import ModuleMixer, RuleMixer
from archer.model.parameters import (
    ONES,
    ZEROS,
    Initial,
    Parameters,
    ParameterSpec,
    count,
    initialise,
    linear_initial,
)

EMBEDDING_DEVIATION = 0.02


@dataclass(frozen=True)
class Model:
    """A backbone with `mixers` token mixers, each followed by a SwiGLU.

    length: tokens per sequence (the auto-encoder needs it; the language model does not).
    """

    mixer: RuleMixer | ModuleMixer
    backbone: Literal["language-model", "auto-encoder"]
    vocabulary: int
    width: int
    mixers: int
    length: int
    embedding_deviation: float = EMBEDDING_DEVIATION

    @property
    def inner(self) -> int:
        """Inner width of the SwiGLU: two thirds of four times the width, rounded up to 16."""
        return -(-int(2 * self.width * 4 / 3) // 16) * 16

    @cached_property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """Everything that one run learns, in the order of the computation."""
        width, encoder = self.width, self.backbone == "auto-encoder"
        specs = [
            ParameterSpec("embed", (self.vocabulary, width), Initial("normal", self.embedding_deviation))
        ]
        for block in range(self.mixers):
            specs.append(ParameterSpec(f"{block}.mixer_norm", (width,), ONES))
            specs += [_named(f"{block}.mixer", spec) for spec in self.mixer.specs()]
            specs.append(ParameterSpec(f"{block}.swiglu_norm", (width,), ONES))
            specs.append(ParameterSpec(f"{block}.up", (width, 2 * self.inner), linear_initial(width)))
            specs.append(ParameterSpec(f"{block}.down", (self.inner, width), linear_initial(self.inner)))
        for layer in range(2 if encoder else 0):
            specs.append(ParameterSpec(f"decoder.{layer}.norm", (width,), ONES))
            specs.append(ParameterSpec(f"decoder.{layer}.weight", (width, width), linear_initial(width)))
            specs.append(ParameterSpec(f"decoder.{layer}.bias", (width,), ZEROS))
        specs.append(ParameterSpec("norm", (width,), ONES))
        specs.append(ParameterSpec("unembed", (width, self.vocabulary), linear_initial(width)))
        specs.append(ParameterSpec("unembed_bias", (self.vocabulary,), ZEROS))
        return tuple(_as_encoder(spec) for spec in specs) if encoder else tuple(specs)

    @property
    def parameters(self) -> int:
        """How many numbers one run learns."""
        return count(self.specs)

    def initial_parameters(self, seeds: list[int]) -> dict[str, Tensor]:
        """First values of F runs, one per seed: name to [F, ...]."""
        values = initialise(self.specs, seeds)
        if isinstance(self.mixer, ModuleMixer):
            for block in range(self.mixers):
                drawn = [self.mixer.initial_values(seed * 1009 + block) for seed in seeds]
                values |= {f"{block}.mixer.{n}": torch.stack([d[n] for d in drawn]) for n in drawn[0]}
        return values

    def logits(self, parameters: Parameters, tokens: Tensor, region: Region | None = None) -> Tensor:
        """tokens [F, B, T] to logits [F, B, T, V]. region: wraps each part, e.g. to compile it."""
        wrap = region or _plain
        x = wrap(embed, "embed")(parameters["embed"], tokens)
        for block in range(self.mixers):
            own = parameters_under(parameters, f"{block}.mixer.")
            x = wrap(_mix, "mixer")(self.mixer, parameters[f"{block}.mixer_norm"], own, x)
            x = wrap(_swiglu, "swiglu")(
                parameters[f"{block}.swiglu_norm"], parameters[f"{block}.up"], parameters[f"{block}.down"], x
            )
        if self.backbone == "auto-encoder":
            x = wrap(_decode, "decode")(parameters_under(parameters, "decoder."), x)
        return wrap(_unembed, "unembed")(
            parameters["norm"], parameters["unembed"], parameters["unembed_bias"], x
        )


Region = Callable[[Callable[..., Any], str], Callable[..., Any]]


def parameters_under(parameters: Parameters, prefix: str) -> dict[str, Tensor]:
    """The parameters whose names start with prefix, under their shorter names."""
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def _mix(mixer: RuleMixer | ModuleMixer, norm: Tensor, own: Parameters, x: Tensor) -> Tensor:
    return x + mixer(own, rms_norm(x, norm[:, None, None]))


def _swiglu(norm: Tensor, up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    """x + W_down (SiLU(x W_1) · x W_2), Shazeer 2020, arXiv:2002.05202."""
    gate, value = linear(rms_norm(x, norm[:, None, None]), up).chunk(2, dim=-1)
    return x + linear(torch.nn.functional.silu(gate) * value, down)


def _decode(own: Parameters, x: Tensor) -> Tensor:
    """The last token's vector, spread over all positions, through the decoder. [F, B, T, D] to the same."""
    length, width = x.shape[2:]
    x = x[:, :, -1:] + sinusoid_positions(length, width, x.device)
    for layer in range(2):
        x = rms_norm(x, own[f"{layer}.norm"][:, None, None])
        x = torch.nn.functional.gelu(linear(x, own[f"{layer}.weight"], own[f"{layer}.bias"]))
    return x


def _unembed(norm: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return linear(rms_norm(x, norm[:, None, None]), weight, bias)


def _plain(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    return function


def _named(prefix: str, spec: ParameterSpec) -> ParameterSpec:
    return ParameterSpec(f"{prefix}.{spec.name}", spec.shape, spec.initial)


def _as_encoder(spec: ParameterSpec) -> ParameterSpec:
    """MAD draws every linear weight of the auto-encoder from a normal of deviation 0.02."""
    is_linear = len(spec.shape) == 2 and ".conv." not in spec.name and isinstance(spec.initial, Initial)
    if is_linear and spec.initial.kind == "uniform":  # type: ignore[union-attr]
        return ParameterSpec(spec.name, spec.shape, Initial("normal", EMBEDDING_DEVIATION))
    return spec
