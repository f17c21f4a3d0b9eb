"""What a model learns: names, shapes and first values, for many runs at once.

Every parameter of a fleet of F runs is one tensor [F, ...]. The first value of a parameter depends only
on its name, its shape and the run's seed: rules that share a parameter start from the same numbers, and a
run starts from the same numbers alone, in any fleet, and on any machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from archer.rules import Draw

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Initial:
    """A distribution: "normal" (scale = standard deviation), "uniform" (-scale to scale) or "constant"."""

    kind: Literal["normal", "uniform", "constant"]
    scale: float = 0.0


ONES, ZEROS = Initial("constant", 1.0), Initial("constant", 0.0)


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of one run: its name, its shape and the distribution of its first value."""

    name: str
    shape: tuple[int, ...]
    initial: Initial | Draw

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def linear_initial(inputs: int) -> Initial:
    """PyTorch's default for a linear layer or a convolution with this many inputs per output."""
    return Initial("uniform", inputs**-0.5)


def projection_initial(inputs: int, outputs: int) -> Initial:
    """First values of a token mixer's projections: Glorot's uniform draw with gain 2^-2.5.

    It is what the layers of flash-linear-attention used until March 2025, and with it the scores of the
    history come closest (`docs/results.md`). Source of the draw: Glorot 2010.
    """
    return Initial("uniform", 2**-2.5 * (6 / (inputs + outputs)) ** 0.5)


def initialise(specs: Sequence[ParameterSpec], seeds: Sequence[int]) -> dict[str, Tensor]:
    """First values of all parameters, name to [F, ...] in float32 on the CPU; one row per seed."""
    return {spec.name: torch.stack([_draw(spec, seed) for seed in seeds]) for spec in specs}


def count(specs: Sequence[ParameterSpec]) -> int:
    """How many numbers one run learns."""
    return sum(spec.size for spec in specs)


def _draw(spec: ParameterSpec, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(_stream(spec.name, seed))
    if isinstance(spec.initial, Draw):
        return spec.initial.transform(torch.rand(spec.shape, generator=generator).clamp_min(1e-4))
    if spec.initial.kind == "normal":
        return torch.randn(spec.shape, generator=generator) * spec.initial.scale
    if spec.initial.kind == "uniform":
        return (torch.rand(spec.shape, generator=generator) * 2 - 1) * spec.initial.scale
    return torch.full(spec.shape, spec.initial.scale)


def _stream(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
