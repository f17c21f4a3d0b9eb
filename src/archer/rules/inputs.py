"""Random inputs for a rule, as the layer would give them: for tests, checks and benchmarks.

Axes: [*leading, T, D], usually leading = (batch, heads); parameters [heads, rows, columns].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from archer.rules.loop import State, chunk_loop
from archer.rules.rule import Draw, Feature, Parameter, Rule

if TYPE_CHECKING:
    from archer.rules.chunk_kernel import ChunkKernel


@dataclass(frozen=True)
class Inputs:
    """What `chunk_loop` takes: q, k, v, beta, one tensor per feature, and the values of the parameters."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    features: dict[str, Tensor]
    parameters: dict[str, Tensor]

    def run(
        self, rule: Rule, state: State | None = None, chunk_size: int = 32, kernel: ChunkKernel | None = None
    ) -> tuple[Tensor, State]:
        """`chunk_loop` on these inputs."""
        sequence = (self.q, self.k, self.v, self.beta)
        return chunk_loop(rule, *sequence, self.features, self.parameters, state, chunk_size, kernel)

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Every per-token tensor changed; the parameters stay."""
        q, k, v, beta = (change(x) for x in (self.q, self.k, self.v, self.beta))
        features = {name: change(x) for name, x in self.features.items()}
        return replace(self, q=q, k=k, v=v, beta=beta, features=features)

    def to(self, where: torch.dtype | str | torch.device) -> Inputs:
        """Every tensor, parameters too, in another precision or on another device."""
        parameters = {name: x.to(where) for name, x in self.parameters.items()}
        return replace(self.map(lambda x: x.to(where)), parameters=parameters)

    def tokens(self, first: int, stop: int) -> Inputs:
        """Tokens first to stop - 1."""
        return self.map(lambda x: x[..., first:stop, :])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        named = {"q": self.q, "k": self.k, "v": self.v, "beta": self.beta}
        return {**named, **self.features, **self.parameters}


def random_inputs(
    rule: Rule,
    seed: int = 0,
    leading: tuple[int, ...] = (2, 3),
    length: int = 100,
    key_width: int = 8,
    value_width: int = 6,
    dtype: torch.dtype = torch.float64,
    spread: float = 0.0,
    device: str | torch.device = "cpu",
) -> Inputs:
    """Normalised q and k, normal v, uniform beta, and features and parameters as the layer would give them.

    spread: standard deviation of what is added to the stored form of every parameter (0: initial values).
    The numbers are drawn in float64 on the CPU, so that all dtypes and devices get the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {"1": 1, "Dk": key_width, "Dv": value_width}

    def normal(width: int) -> Tensor:
        return torch.randn(*leading, length, width, generator=generator, dtype=torch.float64)

    q, k, v = normalize(normal(key_width), dim=-1), normalize(normal(key_width), dim=-1), normal(value_width)
    beta = normal(1).sigmoid()
    features = {name: activate(x, normal(sizes[x.width])) for name, x in rule.features.items()}
    heads = leading[-1] if leading else 1
    parameters = {
        name: _random_value(x, (heads, sizes[x.rows], sizes[x.columns]), spread, generator)
        for name, x in rule.parameters.items()
    }
    if not leading:
        parameters = {name: x[0] for name, x in parameters.items()}
    return Inputs(q, k, v, beta, features, parameters).to(dtype).to(device)


def activate(feature: Feature, projected: Tensor) -> Tensor:
    """A feature's value from its projection: with its first bias, and kept within its interval."""
    return feature.value(projected + (feature.bias or 0.0))


def stored_initial(parameter: Parameter, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """First values of a parameter in the form that the optimiser sees, in float64."""
    if isinstance(parameter.initial, Draw):
        return parameter.initial.transform(torch.rand(shape, generator=generator, dtype=torch.float64))
    return torch.full(shape, parameter.stored_initial(), dtype=torch.float64)


def _random_value(
    parameter: Parameter, shape: tuple[int, ...], spread: float, generator: torch.Generator
) -> Tensor:
    stored = stored_initial(parameter, shape, generator)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return parameter.value(stored + spread * noise)
