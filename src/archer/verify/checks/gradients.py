"""Gradients: finite everywhere, and none dead."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archer.verify.candidate import Candidate, Probe
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.smallest import Case, refute

LENGTH = 100
EXTREMES = (
    Probe(length=LENGTH, scale=0.0),
    Probe(length=LENGTH, scale=1e-3),
    Probe(length=LENGTH),
    Probe(length=LENGTH, scale=30.0),
    Probe(length=LENGTH, keys="repeated", scale=3.0),
    Probe(length=LENGTH, keys="orthogonal"),
    Probe(length=LENGTH, keys="zero"),
    Probe(length=LENGTH, beta=0.0),
    Probe(length=LENGTH, beta=1.0, keys="repeated"),
)
GIVEN = ("q", "k", "v", "beta", "x")
"""Inputs that a candidate is given whether it wants them or not; it may leave them aside."""


@check("finite gradients", "Outputs and gradients are finite at every scale, in float32 and bfloat16.")
def finite_gradients(candidate: Candidate) -> Finding:
    """Inputs of scale 0, 0.001, 1 and 30, repeated, orthogonal and zero keys, beta 0 and 1."""
    cases = (
        Case(candidate, replace(probe, dtype=dtype), seed=None)
        for dtype in (torch.float32, torch.bfloat16)
        for probe in EXTREMES
    )
    tried = f"finite in {len(EXTREMES)} settings, in float32 and bfloat16"
    return refute(cases, _not_finite) or Finding(True, tried)


@check("live parameters", "Every parameter has an effect: its gradient is not zero everywhere.")
def live_parameters(candidate: Candidate) -> Finding:
    """Each parameter and feature, at random values, over sequences that fill several chunks.

    That something never has an effect is found on the largest inputs, not on small ones.
    """
    dead: set[str] | None = None
    cases = [Case(candidate, Probe(length=LENGTH, seed=seed), seed=seed) for seed in (1, 2)]
    for case in cases:
        gradients = _gradients(case)[1]
        names = {n for n, g in gradients.items() if n not in GIVEN and not bool(g.abs().amax() > 0)}
        dead = names if dead is None else dead & names
        if not dead:
            return Finding(True, "every parameter and feature has a gradient")
    name = sorted(dead or ())[0]
    return Finding(False, f"`{name}` has no effect: its gradient is zero", f"every one, up to {cases[0]}")


def _not_finite(case: Case) -> str:
    output, gradients = _gradients(case)
    if not bool(output.isfinite().all()):
        return "the output is not finite"
    bad = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
    return f"the gradient of `{bad[0]}` is not finite" if bad else ""


def _gradients(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradients of a random weighing of it by every input and parameter."""
    parameters = case.parameters
    leaves = {**case.inputs(), **parameters}
    leaves = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    output, _ = case.candidate.run(
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
