"""Digits: what float32 and bfloat16 leave of the exact result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from archer.verify.candidate import Candidate, Inputs, MixerCandidate, Probe, relative_difference
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.gradients import EXTREMES, LENGTH

ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""How far an output may lie from the exact one, relative to the largest. The registered rules that do not
amplify rounding need 1e-4 (sums of log-decays at scale 30) and 0.03."""

AMPLIFIED = 4.0
"""A rule with jumps or chaos (sign, top-k, a division by a small root) turns any rounding into a large
change. It may err by this many times what rounding of its inputs alone does to its exact result."""

NUDGES = 4
SHORTER = (1, 2, 4, 8, 16, 32, 33, 64)


@check("precision", "Float32 and bfloat16 give the exact result up to rounding, at hard inputs too.")
def precision(candidate: Candidate) -> Finding:
    """The extremes of `finite_gradients`, at initial and at random parameters.

    Exact is what the candidate itself gives in float64 for the same numbers. What is lost on the way, in
    an inverse by powers or in angles kept in bfloat16, shows even where float64 has digits to spare.
    """
    largest = dict.fromkeys(ALLOWED, 0.0)
    for dtype in ALLOWED:
        for words, probe in EXTREMES:
            for seed in (None, 1):
                error, allowed = _error(candidate, replace(probe, length=LENGTH, dtype=dtype), seed)
                if not error <= allowed:
                    found = (LENGTH, error, allowed)
                    return _smallest(candidate, words, replace(probe, dtype=dtype), seed, found)
                largest[dtype] = max(largest[dtype], error)
    figures = ", ".join(f"{error:.1g} in {_name(dtype)}" for dtype, error in largest.items())
    return Finding(True, f"largest error relative to the exact result: {figures}")


def _smallest(
    candidate: Candidate, words: str, probe: Probe, seed: int | None, found: tuple[int, float, float]
) -> Finding:
    """Says what was found (a length, the error there, what is allowed) at the shortest length that fails."""
    shorter = ((n, *_error(candidate, replace(probe, length=n), seed)) for n in SHORTER)
    failing = (one for one in shorter if not one[1] <= one[2])
    length, error, allowed = next(failing, found)
    kind = _name(probe.dtype)
    case = f"{words}, length {length}, {kind}{'' if seed is None else ', random parameters'}"
    if not math.isfinite(error):
        return Finding(False, f"the output in {kind} or the exact one is not finite", case)
    return Finding(
        False,
        f"the output in {kind} differs from the exact one by {error:.1e} of its size ({allowed:.1e} is "
        "allowed): digits are lost where numbers far larger than the result cancel or are rounded",
        case,
    )


def _error(candidate: Candidate, probe: Probe, seed: int | None) -> tuple[float, float]:
    """The error of the output relative to the exact one, and what is allowed."""
    mixed = probe.dtype == torch.bfloat16 and not isinstance(candidate, MixerCandidate)
    parameters = candidate.parameters(seed, torch.float32 if mixed else probe.dtype)
    inputs = candidate.inputs(probe)
    with torch.no_grad():
        found, _ = candidate.run(inputs, parameters)
        wide, wide_parameters = _wide(inputs), _wide(parameters)
        exact, _ = candidate.run(wide, wide_parameters)
        error, allowed = relative_difference(found.double(), exact), ALLOWED[probe.dtype]
        if not error <= allowed:
            allowed += AMPLIFIED * _amplified(candidate, wide, wide_parameters, exact, probe.dtype)
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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
