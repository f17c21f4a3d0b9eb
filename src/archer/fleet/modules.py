"""Modules that no fleet can take: found by a trial, and trained one run at a time, on their own.

`torch.func.vmap` cannot follow control flow that depends on values, changes in place of what has no member
axis, an autograd function without a rule for it, or random draws. A fleet of one run needs no vmap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archer.errors import UserError
from archer.model.backbone import Model
from archer.model.mixer import ModuleMixer
from archer.model.parameters import Parameters

TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class AloneMixer(ModuleMixer):
    """A module as the token mixer of one run, called as it is. why: what keeps it from a fleet."""

    why: str = ""

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        """x [1, B, T, D] to the same."""
        assert len(x) == 1, f"{len(x)} runs, but this module is trained alone: {self.why}"
        values = {name: value[0] for name, value in parameters.items()}
        return torch.func.functional_call(self._module, values, (x[0],))[None]

    @contextmanager
    def drawing(self, seed: int, epoch: int, device: torch.device) -> Iterator[None]:
        """Random draws (dropout) that a run's seed and epoch decide, wherever it goes on."""
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((seed + 1) * 1_000_003 + epoch)
            yield

    @contextmanager
    def looking(self) -> Iterator[None]:
        """The module as it is used and not trained: without dropout."""
        self._module.eval()
        try:
            yield
        finally:
            self._module.train()


def for_device(model: Model, device: torch.device) -> Model:
    """The model as it is, or with its module as an `AloneMixer` where a trial shows that vmap cannot take it.

    Raises UserError for a module that cannot be trained at all.
    """
    mixer = model.mixer
    if not isinstance(mixer, ModuleMixer):
        return model
    alone = AloneMixer(mixer.name, mixer.make)
    for one in (mixer, alone):
        one._module.to(device)
    expected = _tried_alone(alone, model, device)
    why = _obstacle(mixer, model, device, expected)
    if not why:
        return model
    found = replace(alone, why=why)
    found._module.to(device)
    return replace(model, mixer=found)


def _obstacle(mixer: ModuleMixer, model: Model, device: torch.device, expected: Tensor) -> str:
    """What keeps vmap from two members and their gradients, in words; "" where nothing does."""
    values, x = _example(mixer, model, device)
    try:
        made = mixer(values, x)
        torch.autograd.grad(made.sum(), list(values.values()), allow_unused=True)
    except Exception as error:  # noqa: BLE001  foreign code: whatever it raises is the answer
        return str(error).strip().partition("\n")[0][:300] or type(error).__name__
    difference = (made[0] - expected[0]).abs().max().item()
    if made.shape == x.shape and difference <= TOLERANCE * (1 + expected.abs().max().item()):
        return ""
    return f"in a fleet its result differs by {difference:.2g}"


def _tried_alone(alone: AloneMixer, model: Model, device: torch.device) -> Tensor:
    """The first member's result. Raises UserError where the module does not do what a token mixer must."""
    values, x = _example(alone, model, device)
    first = {name: value[:1] for name, value in values.items()}
    before = {name: buffer.clone() for name, buffer in alone._module.named_buffers()}
    with alone.drawing(0, 0, device):
        try:
            made = alone(first, x[:1])
        except Exception as error:
            raise UserError(
                f"module {alone.name} fails on [B, T, D] = {list(x.shape[1:])}: {error}"
            ) from error
    if made.shape != x[:1].shape:
        raise UserError(
            f"module {alone.name} makes {list(made.shape[1:])} of {list(x.shape[1:])}: "
            "expected [B, T, D] to the same"
        )
    for name, buffer in alone._module.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise UserError(
                f"module {alone.name} changes its buffer {name} while it computes (as BatchNorm does): runs "
                "share the module, so it can keep nothing for the next batch; use LayerNorm or RMSNorm"
            )
    return made.detach()


def _example(mixer: ModuleMixer, model: Model, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters of two members, and inputs [2, 2, T, D]."""
    drawn = [mixer.initial_values(seed) for seed in (0, 1)]
    values = {n: torch.stack([d[n] for d in drawn]).to(device).requires_grad_() for n in drawn[0]}
    noise = torch.Generator().manual_seed(0)
    return values, torch.randn(2, 2, model.length, model.width, generator=noise).to(device)
