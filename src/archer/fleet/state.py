"""What a fleet holds in memory: parameters and optimiser of F runs as three matrices [F, P]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archer.model.backbone import Model
from archer.model.parameters import ParameterSpec

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class Weights:
    """All parameters of F runs in one row each, with Adam's two moments. P numbers a run, float32.

    `views` gives the model its tensors [F, ...]: leaves that share the memory of one matrix, so that the
    optimiser is a handful of operations, whatever the model.
    """

    specs: tuple[ParameterSpec, ...]
    flat: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    @classmethod
    def start(cls, model: Model, seeds: Sequence[int], device: torch.device) -> Weights:
        values = model.initial_parameters(list(seeds))
        flat = torch.cat([values[spec.name].flatten(1) for spec in model.specs], dim=1).to(device)
        steps = torch.zeros(len(seeds), device=device)
        return cls(model.specs, flat, torch.zeros_like(flat), torch.zeros_like(flat), steps)

    def __post_init__(self) -> None:
        parts = self.flat.split([spec.size for spec in self.specs], dim=1)
        self.views = {
            spec.name: part.detach().unflatten(1, spec.shape).requires_grad_()
            for spec, part in zip(self.specs, parts, strict=True)
        }

    def gradient(self, loss: Tensor) -> Tensor:
        """The gradient [F, P] of a scalar; zeros where a parameter took no part."""
        gradients = torch.autograd.grad(loss, list(self.views.values()), materialize_grads=True)
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)

    @torch.no_grad()
    def update(self, gradient: Tensor, learning_rate: Tensor, weight_decay: Tensor) -> None:
        """One AdamW step for every run (Loshchilov 2019, arXiv:1711.05101), as torch.optim.AdamW computes it.

        gradient [F, P]; learning_rate, weight_decay [F].
        """
        self.steps += 1
        adamw(self.flat, gradient, self.first, self.second, self.steps, learning_rate, weight_decay)

    def snapshot(self) -> tuple[Tensor, ...]:
        """A copy of the state, on the same device."""
        return tuple(x.clone() for x in (self.flat, self.first, self.second, self.steps))

    @torch.no_grad()
    def restore(self, snapshot: tuple[Tensor, ...]) -> None:
        """Goes back to a snapshot."""
        for x, kept in zip((self.flat, self.first, self.second, self.steps), snapshot, strict=True):
            x.copy_(kept)

    def to_cpu(self, count: int) -> dict[str, Tensor]:
        """The state of the first `count` runs by name, on the CPU; takes no memory of the device."""
        return {name: getattr(self, name)[:count].cpu() for name in ("flat", "first", "second", "steps")}

    def keep(self, members: Tensor) -> Weights:
        """The same state for some of its runs."""
        return Weights(
            self.specs, self.flat[members], self.first[members], self.second[members], self.steps[members]
        )

    def join(self, other: Weights) -> Weights:
        """The same state with the runs of another behind its own."""
        both = {
            n: torch.cat([getattr(self, n), getattr(other, n)]) for n in ("flat", "first", "second", "steps")
        }
        return Weights(self.specs, **both)


def adamw(
    flat: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    learning_rate: Tensor,
    weight_decay: Tensor,
) -> None:
    """AdamW in place on [F, P], each run with its own step count, learning rate and weight decay [F]."""
    rate, decay, step = learning_rate[:, None], weight_decay[:, None], steps[:, None]
    flat.mul_(1 - rate * decay)
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = (second.sqrt() / (1 - BETA2**step).sqrt()).add_(EPSILON)
    flat.addcdiv_(first * (-rate / (1 - BETA1**step)), denominator)
