"""The token mixer around a rule: projections, short convolution, normalisation, the chunk loop, output.

    q, k, v = SiLU(conv4(x W)), q and k L2-normalised per head; beta = σ(x W_beta), one per head
    y = RMSNorm(o) [· SiLU(x W_gate)] W_out

Source: the layers of Yang 2024, arXiv:2406.06484 and arXiv:2412.06464. Shapes: x [F, B, T, D]; per head
[F, B, H, T, Dk or Dv]; the projections of q, k, v, gate, beta and features are one matrix, [F, D, E].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from archer.errors import UserError
from archer.model.layers import l2_normalise, linear, rms_norm, short_convolution
from archer.model.parameters import (
    ONES,
    Initial,
    Parameters,
    ParameterSpec,
    linear_initial,
    projection_initial,
)
from archer.rules import Rule, chunk_loop
from archer.rules.algebra import kernels_enabled, kernels_for
from archer.rules.chunk_trace import NoKernelError
from archer.rules.loop import chunk_loop_on_chunks, to_chunks
from archer.rules.rule import Parameter

if TYPE_CHECKING:
    from archer.rules.chunk_kernel import ChunkKernel

TAPS = 4
ALIGNED = 16


@dataclass(frozen=True)
class RuleMixer:
    """A rule as a token mixer of `width` with `heads` heads of key size width / heads.

    kernel: the rule's chunk loop as a kernel, once `make_kernel` was called; without_kernel: why there is
    none then.
    """

    rule: Rule
    width: int
    heads: int
    chunk_size: int = 32
    kernel: ChunkKernel | None = field(default=None, init=False, compare=False, repr=False)
    without_kernel: str = field(default="", init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.width % self.head_count:
            raise UserError(
                f"width {self.width} is no multiple of {self.head_count} heads; change one of them"
            )

    def make_kernel(self, device: torch.device, dtype: torch.dtype) -> None:
        """Makes the kernel of the rule's slots, where kernels are enabled and these slots have one that
        computes on this device, in this precision, what the plain loop computes.

        To be called before anything is compiled: PyTorch's compiler cannot do it in passing.
        """
        if device.type != "cuda" or not kernels_enabled() or self.kernel or self.without_kernel:
            return
        from archer.rules.chunk_check import require_equal
        from archer.rules.chunk_kernel import chunk_kernel

        try:
            made = chunk_kernel(self.rule, self.chunk_size, self.key_size, self.value_size)
            require_equal(made, self.rule, device, dtype)
            object.__setattr__(self, "kernel", made)
        except NoKernelError as error:
            object.__setattr__(self, "without_kernel", str(error))

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def head_count(self) -> int:
        return self.rule.layer.heads or self.heads

    @property
    def key_size(self) -> int:
        return self.width // self.head_count

    @property
    def value_size(self) -> int:
        return int(self.key_size * self.rule.layer.expand_value)

    @cached_property
    def _columns(self) -> dict[str, int]:
        """Columns of the fused projection, by name and in order."""
        heads, key, value = self.head_count, self.heads_key, self.heads_value
        sizes = {"1": 1, "Dk": self.key_size, "Dv": self.value_size}
        columns = {"q": key, "k": key, "v": value, "beta": heads}
        columns |= {name: heads * sizes[feature.width] for name, feature in self.rule.features.items()}
        return columns | ({"gate": value} if self.rule.layer.output_gate else {})

    @property
    def heads_key(self) -> int:
        return self.head_count * self.key_size

    @property
    def heads_value(self) -> int:
        return self.head_count * self.value_size

    def specs(self) -> tuple[ParameterSpec, ...]:
        """Everything that this layer learns, per run. Column blocks of `project.*` are separate parameters
        by name, so that a rule's extra features do not change the first values of q, k and v."""
        specs = [
            ParameterSpec(f"project.{n}", (self.width, size), projection_initial(self.width, size))
            for n, size in self._columns.items()
        ]
        if self.rule.layer.short_convolution:
            sizes = {"q": self.heads_key, "k": self.heads_key, "v": self.heads_value}
            specs += [
                ParameterSpec(f"conv.{n}", (TAPS, size), linear_initial(TAPS)) for n, size in sizes.items()
            ]
        specs += [self._rule_spec(name, parameter) for name, parameter in self.rule.parameters.items()]
        specs += [
            self._bias_spec(name, feature.bias)
            for name, feature in self.rule.features.items()
            if feature.bias is not None
        ]
        specs.append(ParameterSpec("norm", (self.value_size,), ONES))
        out = projection_initial(self.heads_value, self.width)
        specs.append(ParameterSpec("out", (self.heads_value, self.width), out))
        return tuple(specs)

    def _rule_spec(self, name: str, parameter: Parameter) -> ParameterSpec:
        sizes = {"1": 1, "Dk": self.key_size, "Dv": self.value_size}
        shape = (self.head_count, sizes[parameter.rows], sizes[parameter.columns])
        drawn = not isinstance(parameter.initial, float | int)
        initial = parameter.initial if drawn else Initial("constant", parameter.stored_initial())
        return ParameterSpec(f"rule.{name}", shape, initial)  # type: ignore[arg-type]

    def _bias_spec(self, name: str, bias: float) -> ParameterSpec:
        return ParameterSpec(f"bias.{name}", (self._columns[name],), Initial("constant", bias))

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        """x [F, B, T, D] to [F, B, T, D]."""
        fused = self.project(parameters, x)
        mix = self._mix_in_kernels if self._kernels_take(fused) else self._mix_plainly
        o, gate = mix(parameters, fused)
        return self.finish(parameters, o, gate)

    def project(self, parameters: Parameters, x: Tensor) -> Tensor:
        """All linear maps of the input at once, one block of columns after the other: [F, B, T, E].

        Zeros fill E up to whole blocks of memory, without which a GPU's products are slower.
        """
        weights = [parameters[f"project.{name}"] for name in self._columns]
        filling = -sum(self._columns.values()) % ALIGNED
        return linear(x, torch.cat([*weights, weights[0].new_zeros(*weights[0].shape[:-1], filling)], dim=-1))

    def _divided(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Blocks of columns by name; what comes after them is left out."""
        sizes = {name: self._columns[name] for name in names}
        *blocks, _ = x.split([*sizes.values(), x.shape[-1] - sum(sizes.values())], dim=-1)
        return dict(zip(sizes, blocks, strict=True))

    def _mix_plainly(self, parameters: Parameters, fused: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convolution, normalisation and the chunk loop: o [F, B, T, H, Dv]; and the output gate's input."""
        parts = self._divided(fused, self._columns)
        q, k, v = (self._by_head(self._convolved(name, parameters, parts[name])) for name in "qkv")
        o, _ = chunk_loop(
            self.rule, l2_normalise(q), l2_normalise(k), v, self._beta(parts),
            self._features(parameters, parts), self.values(parameters), chunk_size=self.chunk_size,
            kernel=self.kernel,
        )  # fmt: skip
        return o.transpose(2, 3), self._output_gate(parts)

    def _convolved(self, name: str, parameters: Parameters, x: Tensor) -> Tensor:
        if self.rule.layer.short_convolution:
            x = short_convolution(x, parameters[f"conv.{name}"].to(x.dtype))
        return torch.nn.functional.silu(x)

    def _kernels_take(self, fused: Tensor) -> bool:
        fits = fused.shape[2] % self.chunk_size == 0 and self.value_size % self.key_size == 0
        fits = fits and self.rule.layer.short_convolution
        return fits and kernels_for(fused[..., : self.key_size], self.chunk_size) is not None

    def _mix_in_kernels(self, parameters: Parameters, fused: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same; q, k and v come from one kernel, in chunks."""
        from archer.model.kernels import convolved

        taps = torch.cat([parameters[f"conv.{name}"] for name in "qkv"], dim=-1)
        q, k, v, rest = convolved(
            fused, taps, self.head_count, self.key_size, self.value_size, self.chunk_size
        )
        parts = self._divided(rest, [name for name in self._columns if name not in ("q", "k", "v")])
        others = {"beta": self._beta(parts), **self._features(parameters, parts)}
        chunks = {name: to_chunks(x, self.chunk_size) for name, x in others.items()}
        chunks |= {"q": q, "k": k, "v": v}
        o, _ = chunk_loop_on_chunks(self.rule, chunks, self.values(parameters), self.kernel)
        return o.permute(1, 2, 0, 4, 3, 5).flatten(2, 3), self._output_gate(parts)

    def _output_gate(self, parts: dict[str, Tensor]) -> Tensor | None:
        """What the layer's gate is made of, where it has one; elsewhere a feature may have that name."""
        return parts["gate"] if self.rule.layer.output_gate else None

    def _beta(self, parts: dict[str, Tensor]) -> Tensor:
        return self._by_head(parts["beta"]).sigmoid()

    def finish(self, parameters: Parameters, o: Tensor, gate: Tensor | None) -> Tensor:
        """Output norm, gate and projection: o [F, B, T, H, Dv] to [F, B, T, D]."""
        o = rms_norm(o, parameters["norm"][:, None, None, None])
        if gate is not None:
            o = o * torch.nn.functional.silu(gate.float() if gate.dtype == torch.bfloat16 else gate).view_as(
                o
            )
        return linear(o.flatten(-2), parameters["out"])

    def values(self, parameters: Parameters) -> dict[str, Tensor]:
        """The rule's parameters as its slots see them: [F, 1, H, rows, columns]."""
        return {n: p.value(parameters[f"rule.{n}"])[:, None] for n, p in self.rule.parameters.items()}

    def _features(self, parameters: Parameters, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        features: dict[str, Any] = {}
        for name, feature in self.rule.features.items():
            raw = parts[name]
            if feature.bias is not None:
                raw = raw + parameters[f"bias.{name}"][:, None, None]
            features[name] = feature.value(self._by_head(raw))
        return features

    def _by_head(self, x: Tensor) -> Tensor:
        """[F, B, T, H * size] to [F, B, H, T, size]."""
        return x.unflatten(-1, (self.head_count, -1)).transpose(2, 3)


@dataclass(frozen=True, eq=False)
class ModuleMixer:
    """Any `torch.nn.Module` that maps [B, T, D] to [B, T, D], as a token mixer of a fleet, by vmap.

    make: builds the module (it may draw random numbers; they are drawn under each run's own seed).
    """

    name: str
    make: Any

    @cached_property
    def _module(self) -> torch.nn.Module:
        """The module that lends its forward pass (and its buffers) to all runs."""
        return self._made(0)

    def _made(self, seed: int) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def specs(self) -> tuple[ParameterSpec, ...]:
        named = self._module.named_parameters()
        return tuple(ParameterSpec(name, tuple(p.shape), Initial("constant")) for name, p in named)

    def initial_values(self, seed: int) -> dict[str, Tensor]:
        """First values as the module itself draws them, under this seed."""
        return {name: p.detach().float() for name, p in self._made(seed).named_parameters()}

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        module = self._module  # made before vmap, which draws no random numbers

        def one(values: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return torch.func.functional_call(module, values, (inputs,))

        return torch.func.vmap(one, randomness="error")(dict(parameters), x)
