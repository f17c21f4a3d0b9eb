"""Gradients: finite everywhere, and none dead."""

from __future__ import annotations

import torch

from archer.verify.candidate import Candidate, MixerCandidate, Probe
from archer.verify.checks.finding import Finding, check

EXTREMES = (
    ("scale 0", Probe(scale=0.0)),
    ("scale 0.001", Probe(scale=1e-3)),
    ("scale 1", Probe()),
    ("scale 30", Probe(scale=30.0)),
    ("repeated keys", Probe(keys="repeated", scale=3.0)),
    ("orthogonal keys", Probe(keys="orthogonal")),
    ("zero keys", Probe(keys="zero")),
    ("beta 0", Probe(beta=0.0)),
    ("beta 1, repeated keys", Probe(beta=1.0, keys="repeated")),
)
LENGTH = 100
GIVEN = ("q", "k", "v", "beta", "x")
"""Inputs that a candidate is given whether it wants them or not; it may leave them aside."""


@check("finite gradients", "Outputs and gradients are finite at every scale, in float32 and bfloat16.")
def finite_gradients(candidate: Candidate) -> Finding:
    """Inputs of scale 0, 0.001, 1 and 30, repeated, orthogonal and zero keys, beta 0 and 1."""
    for dtype in (torch.float32, torch.bfloat16):
        for words, probe in EXTREMES:
            bad = _not_finite(candidate, _with(probe, dtype), seed=None)
            if bad:
                return Finding(False, f"{bad} is not finite", f"{words}, length {LENGTH}, {_name(dtype)}")
    return Finding(True, f"finite in {len(EXTREMES)} settings, in float32 and bfloat16")


@check("live parameters", "Every parameter has an effect: its gradient is not zero everywhere.")
def live_parameters(candidate: Candidate) -> Finding:
    """Each parameter and feature, at random values, over four sequences that fill several chunks."""
    dead: set[str] | None = None
    for seed in (1, 2):
        gradients = _gradients(candidate, Probe(length=LENGTH, seed=seed, dtype=torch.float64), seed)[1]
        names = {n for n, g in gradients.items() if n not in GIVEN and not bool(g.abs().amax() > 0)}
        dead = names if dead is None else dead & names
        if not dead:
            return Finding(True, "every parameter and feature has a gradient")
    name = sorted(dead or ())[0]
    return Finding(False, f"`{name}` has no effect: its gradient is zero", f"random inputs, length {LENGTH}")


def _with(probe: Probe, dtype: torch.dtype) -> Probe:
    return Probe(2, LENGTH, probe.seed, dtype, probe.scale, probe.keys, probe.beta)


def _not_finite(candidate: Candidate, probe: Probe, seed: int | None) -> str:
    output, gradients = _gradients(candidate, probe, seed)
    if not bool(output.isfinite().all()):
        return "the output"
    bad = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
    return f"the gradient of `{bad[0]}`" if bad else ""


def _gradients(
    candidate: Candidate, probe: Probe, seed: int | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Output, and the gradients of a random weighing of it by every input and parameter."""
    mixed = isinstance(candidate, MixerCandidate) or probe.dtype != torch.bfloat16
    parameters = candidate.parameters(seed, probe.dtype if mixed else torch.float32)
    leaves = {**candidate.inputs(probe), **parameters}
    leaves = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    output, _ = candidate.run(
        {name: x for name, x in leaves.items() if name not in parameters},
        {name: leaves[name] for name in parameters},
    )
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    found = torch.autograd.grad((output * weights).sum(), list(leaves.values()), allow_unused=True)
    return output.detach(), {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
