"""One view of whatever is checked: a rule, or any sequence mixer.

Axes: the batch stands first and time last but one in every input, so a check can cut, swap and change
without knowing what it has in hand. Probes are small (two heads, key width 8, value width 16): what a
check proves about a function does not depend on its width, and its time does.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from archer.errors import UserError, unknown
from archer.rules import Rule
from archer.rules.executed import executed
from archer.rules.inputs import activate, stored_initial
from archer.rules.loop import chunk_loop, initial_state

Inputs = dict[str, Tensor]
State = dict[str, Tensor]
Keys = Literal["random", "repeated", "orthogonal", "zero"]


@dataclass(frozen=True)
class Probe:
    """A set of random inputs. scale: of everything that is not normalised. beta: a fixed write strength."""

    batch: int = 2
    length: int = 70
    seed: int = 0
    dtype: torch.dtype = torch.float64
    scale: float = 1.0
    keys: Keys = "random"
    beta: float | None = None

    def generator(self) -> torch.Generator:
        """Random numbers of this probe's own: the global generator is never touched."""
        return torch.Generator().manual_seed(self.seed)


class Candidate(Protocol):
    """What the checks ask of a candidate."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def chunk_size(self) -> int:
        """Tokens in a chunk."""
        ...

    @property
    def carries_state(self) -> bool:
        """Whether a run can begin with the state that another one ended with."""
        ...

    def inputs(self, probe: Probe) -> Inputs:
        """Random inputs, each [B, ..., T, D]."""
        ...

    def parameters(self, seed: int | None, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the optimiser would see: initial values, for a seed moved away from them at random."""
        ...

    def run(
        self, inputs: Inputs, parameters: Mapping[str, Tensor], state: State | None = None, train: bool = True
    ) -> tuple[Tensor, State]:
        """Outputs [B, ..., T, D], and the state after the last token (empty where there is none)."""
        ...

    def output_shape(self, inputs: Inputs) -> tuple[int, ...]:
        """The shape that `run` must return."""
        ...


@dataclass(frozen=True)
class RuleCandidate:
    """A rule in the chunk loop. Inputs: q, k [B, H, T, Dk], v [B, H, T, Dv], beta and the rule's features."""

    rule: Rule
    chunk_size: int = 32
    heads: int = 2
    key_width: int = 8
    value_width: int = 16
    carries_state: bool = True

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name

    def width(self, size: str) -> int:
        """The number behind "1", "Dk" or "Dv"."""
        return {"1": 1, "Dk": self.key_width, "Dv": self.value_width}[size]

    def inputs(self, probe: Probe) -> Inputs:
        """Keys and queries are normalised, as the layer gives them; values and features have the scale."""
        generator = probe.generator()

        def draw(width: int) -> Tensor:
            shape = (probe.batch, self.heads, probe.length, width)
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        q, k = draw(self.key_width), _keys(draw(self.key_width), probe)
        values: Inputs = {
            "q": _normalise(q) * (probe.scale != 0),
            "k": _normalise(k) * (probe.scale != 0),
            "v": draw(self.value_width) * probe.scale,
            "beta": (draw(1) * min(probe.scale, 4.0)).sigmoid(),
        }
        if probe.beta is not None:
            values["beta"] = torch.full_like(values["beta"], probe.beta)
        for name, feature in self.rule.features.items():
            values[name] = activate(feature, draw(self.width(feature.width)) * probe.scale)
        return {name: x.to(probe.dtype) for name, x in values.items()}

    def parameters(self, seed: int | None, dtype: torch.dtype) -> dict[str, Tensor]:
        """Stored values [H, rows, columns]."""
        generator = torch.Generator().manual_seed(seed or 0)
        stored: dict[str, Tensor] = {}
        for name, parameter in self.rule.parameters.items():
            shape = (self.heads, self.width(parameter.rows), self.width(parameter.columns))
            first = stored_initial(parameter, shape, generator)
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            stored[name] = (first if seed is None else first + 0.4 * noise).to(dtype)
        return stored

    def run(
        self, inputs: Inputs, parameters: Mapping[str, Tensor], state: State | None = None, train: bool = True
    ) -> tuple[Tensor, State]:
        """Runs the chunk loop; a parameter is passed through its own interval first."""
        values = {name: self.rule.parameters[name].value(stored) for name, stored in parameters.items()}
        features = {name: x for name, x in inputs.items() if name not in ("q", "k", "v", "beta")}
        q, k, v, beta = (inputs[name] for name in ("q", "k", "v", "beta"))
        return chunk_loop(self.rule, q, k, v, beta, features, values, state, self.chunk_size)

    def output_shape(self, inputs: Inputs) -> tuple[int, ...]:
        """That of v."""
        return tuple(inputs["v"].shape)

    def state_shapes(self, inputs: Inputs) -> dict[str, tuple[int, ...]]:
        """The shapes that the state must have after any number of tokens."""
        return {n: tuple(x.shape) for n, x in initial_state(self.rule, inputs["q"], inputs["v"]).items()}


@dataclass(frozen=True)
class MixerCandidate:
    """An nn.Module that maps x [B, T, D] to [B, T, D]. build: makes one; called under a fixed seed."""

    name: str
    build: Callable[[], torch.nn.Module]
    width: int
    source_hash: str = ""
    chunk_size: int = 32
    carries_state: bool = False
    _modules: dict[torch.dtype, torch.nn.Module] = field(default_factory=dict, compare=False)

    def module(self, dtype: torch.dtype) -> torch.nn.Module:
        """One module for all calls of a dtype, so that what it hides in itself shows."""
        if dtype not in self._modules:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._modules[dtype] = self.build().to(dtype)
        return self._modules[dtype]

    def inputs(self, probe: Probe) -> Inputs:
        """x [B, T, D]; "repeated" is one token over and over, "orthogonal" walks through the unit vectors."""
        shape = (probe.batch, probe.length, self.width)
        x = _keys(torch.randn(shape, generator=probe.generator(), dtype=torch.float64), probe)
        return {"x": (x * probe.scale).to(probe.dtype)}

    def parameters(self, seed: int | None, dtype: torch.dtype) -> dict[str, Tensor]:
        """The module's own; for a seed, a tenth of their spread of noise is added."""
        generator = torch.Generator().manual_seed(seed or 0)
        moved: dict[str, Tensor] = {}
        for name, value in self.module(dtype).named_parameters():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(dtype)
            moved[name] = value.detach().clone() + (0 if seed is None else 0.1) * noise
        return moved

    def run(
        self, inputs: Inputs, parameters: Mapping[str, Tensor], state: State | None = None, train: bool = True
    ) -> tuple[Tensor, State]:
        """Calls the module with the given parameters, in training or evaluation mode."""
        module = self.module(inputs["x"].dtype).train(train)
        output = torch.func.functional_call(module, dict(parameters), (inputs["x"],))
        return (output[0] if isinstance(output, tuple) else output), {}

    def output_shape(self, inputs: Inputs) -> tuple[int, ...]:
        """That of x."""
        return tuple(inputs["x"].shape)


def mixer_candidate(
    source: str, class_name: str, arguments: Mapping[str, Any], width: int, as_trained: bool = False
) -> MixerCandidate:
    """The mixer that a file's class makes: CLASS(width, **arguments), as for training, or CLASS(**arguments)
    where these name its first argument or it has none. as_trained: the first way alone. The text is executed.

    Raises UserError where the text is not Python, where there is no such class or where it cannot be built.
    """
    try:
        namespace = executed(source, "archer_candidate", "<mixer>")
    except SyntaxError as error:
        raise UserError(f"line {error.lineno} of the mixer's file is not Python: {error.msg}") from error
    modules = {
        name: value
        for name, value in namespace.items()
        if inspect.isclass(value) and issubclass(value, torch.nn.Module)
    }
    if class_name not in modules:
        if not modules:
            raise UserError(
                f"this file has no nn.Module, so none named '{class_name}' (a rule file needs no class)"
            )
        raise unknown("nn.Module", class_name, modules)
    kind = modules[class_name]
    first = next(iter(inspect.signature(kind).parameters.values()), None)
    unasked = first is None or first.name in arguments or first.kind is not first.POSITIONAL_OR_KEYWORD
    named = unasked and not as_trained

    def build() -> torch.nn.Module:
        return kind(**arguments) if named else kind(width, **arguments)

    try:
        build()
    except TypeError as error:
        raise UserError(
            f"{class_name} cannot be built with {'' if named else f'width {width} and '}{dict(arguments)}: "
            f"{error}; it takes {inspect.signature(kind)}; give its arguments as --argument name=value"
        ) from error
    digest = hashlib.sha256(f"{source}\0{class_name}\0{dict(arguments)}".encode()).hexdigest()[:12]
    return MixerCandidate(class_name, build, width, digest)


def _normalise(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _keys(drawn: Tensor, probe: Probe) -> Tensor:
    if probe.keys == "repeated":
        return drawn[..., :1, :].expand_as(drawn).clone()
    if probe.keys == "orthogonal":
        unit = torch.eye(drawn.shape[-1], dtype=drawn.dtype)
        return unit[torch.arange(drawn.shape[-2]) % drawn.shape[-1]].expand_as(drawn).clone()
    return torch.zeros_like(drawn) if probe.keys == "zero" else drawn


def slice_time(inputs: Inputs, start: int, stop: int | None = None) -> Inputs:
    """The tokens from start to stop of every input."""
    return {name: x[..., start:stop, :] for name, x in inputs.items()}


def splice_time(first: Inputs, second: Inputs, at: int) -> Inputs:
    """The tokens before `at` of one, those from `at` on of the other."""
    return {name: torch.cat([x[..., :at, :], second[name][..., at:, :]], dim=-2) for name, x in first.items()}


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over the largest magnitude (at least 1e-6); NaN where either has NaN."""
    if a.numel() == 0:
        return 0.0
    largest = torch.maximum(a.abs().amax(), b.abs().amax()).clamp_min(1e-6)
    return float((a - b).abs().amax() / largest)
