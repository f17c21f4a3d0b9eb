"""Digits: what float32 and bfloat16 leave of the exact result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from archer.verify.candidate import Candidate, Inputs, relative_difference
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.gradients import EXTREMES
from archer.verify.checks.smallest import Case, dtype_name, refute

ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""How far an output may lie from the exact one, relative to the largest. The registered rules that do not
amplify rounding need 1e-4 (sums of log-decays at scale 30) and 0.03."""

AMPLIFIED = 4.0
"""A rule with jumps or chaos (sign, top-k, a division by a small root) turns any rounding into a large
change. It may err by this many times what rounding of its inputs alone does to its exact result."""

NUDGES = 4


@check("precision", "Float32 and bfloat16 give the exact result up to rounding, at hard inputs too.")
def precision(candidate: Candidate) -> Finding:
    """The extremes of `finite_gradients`, at initial and at random parameters.

    Exact is what the candidate itself gives in float64 for the same numbers. What is lost on the way, in
    an inverse by powers or in angles kept in bfloat16, shows even where float64 has digits to spare.
    """
    largest = dict.fromkeys(ALLOWED, 0.0)

    def problem(case: Case) -> str:
        error, allowed = _error(case)
        if error <= allowed:
            largest[case.probe.dtype] = max(largest[case.probe.dtype], error)
            return ""
        kind = dtype_name(case.probe.dtype)
        if not math.isfinite(error):
            return f"the output in {kind} or the exact one is not finite"
        return (
            f"the output in {kind} differs from the exact one by {error:.1e} of its size ({allowed:.1e} is "
            "allowed): digits are lost where numbers far larger than the result cancel or are rounded"
        )

    cases = (
        Case(candidate, replace(probe, dtype=dtype), seed=seed)
        for dtype in ALLOWED
        for probe in EXTREMES
        for seed in (None, 1)
    )
    found = refute(cases, problem)
    figures = ", ".join(f"{error:.1g} in {dtype_name(dtype)}" for dtype, error in largest.items())
    return found or Finding(True, f"largest error relative to the exact result: {figures}")


def _error(case: Case) -> tuple[float, float]:
    """The error of the output relative to the exact one, and what is allowed."""
    candidate, dtype = case.candidate, case.probe.dtype
    inputs = case.inputs()
    with torch.no_grad():
        found, _ = case.run(inputs)
        wide, parameters = _wide(inputs), _wide(case.parameters)
        exact, _ = candidate.run(wide, parameters)
        error, allowed = relative_difference(found.double(), exact), ALLOWED[dtype]
        if not error <= allowed:
            allowed += AMPLIFIED * _amplified(candidate, wide, parameters, exact, dtype)
    return error, allowed


def _amplified(
    candidate: Candidate, inputs: Inputs, parameters: Mapping[str, Tensor], exact: Tensor, dtype: torch.dtype
) -> float:
    """How far the exact result moves when every input and parameter moves by a rounding of `dtype`."""
    moved = []
    for seed in range(NUDGES):
        generator = torch.Generator().manual_seed(seed)
        output, _ = candidate.run(_nudged(inputs, dtype, generator), _nudged(parameters, dtype, generator))
        moved.append(relative_difference(output, exact))
    return max(moved)


def _nudged(
    values: Mapping[str, Tensor], dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Tensor]:
    noise = {n: 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1 for n, x in values.items()}
    return {name: x * (1 + torch.finfo(dtype).eps * noise[name]) for name, x in values.items()}


def _wide(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() for name, x in values.items()}
