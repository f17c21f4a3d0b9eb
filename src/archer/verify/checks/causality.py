"""The future changes nothing before it."""

from __future__ import annotations

import torch

from archer.verify.candidate import Candidate, Inputs, Probe, relative_difference, slice_time, splice_time
from archer.verify.checks.finding import Finding, check

TOLERANCE = 1e-9
LONG = 2_304
SHORT = (2, 7, 33, 64, 97)
"""Lengths at which every position is cut: inside a chunk, across chunks, odd and even."""


@check("causality", "Changing the future changes nothing before it, to the bit, at any position and length.")
def causality(candidate: Candidate) -> Finding:
    """In float64. Short sequences are cut at every position, a long one at positions past 2,048 as well."""
    parameters = candidate.parameters(1, torch.float64)
    with torch.no_grad():
        for length in SHORT:
            for cut in _cuts(length):
                finding = _changed_past(candidate, parameters, length, cut, scale=1.0 if cut % 2 else 20.0)
                if finding:
                    return finding
        for cut in (1_000, 2_047, 2_049, 2_080, 2_111, 2_303):
            finding = _changed_past(candidate, parameters, LONG, cut, scale=1.0)
            if finding:
                return finding
    return Finding(True, f"bit-exact in float64 at lengths {', '.join(map(str, SHORT))} and {LONG}")


@check("length independence", "A prefix run alone gives what it gives inside a longer sequence.")
def length_independence(candidate: Candidate) -> Finding:
    """Up to rounding in float64 (another length may take another kernel)."""
    parameters = candidate.parameters(1, torch.float64)
    with torch.no_grad():
        for length, prefixes in ((67, (1, 5, 31, 32, 33, 48, 64, 66)), (LONG, (2_048, 2_200))):
            inputs = candidate.inputs(Probe(batch=1, length=length, seed=3))
            whole, _ = candidate.run(inputs, parameters)
            for prefix in prefixes:
                alone, _ = candidate.run(slice_time(inputs, 0, prefix), parameters)
                difference = relative_difference(alone, whole[..., :prefix, :])
                if not difference <= TOLERANCE:
                    return Finding(
                        False,
                        f"the first {prefix} tokens give something else when {length - prefix} more follow "
                        f"(relative difference {difference:.1e}): the output depends on the total length",
                        f"length {prefix} alone, and inside length {length}",
                    )
    return Finding(True, f"prefixes agree within {TOLERANCE:g} up to length {LONG}")


def _cuts(length: int) -> list[int]:
    return [
        t for t in range(1, length) if length < 40 or t % 5 == 1 or t % 32 in (0, 1, 31) or t == length - 1
    ]


def _changed_past(
    candidate: Candidate, parameters: dict[str, torch.Tensor], length: int, cut: int, scale: float
) -> Finding | None:
    inputs = candidate.inputs(Probe(batch=1, length=length, seed=2))
    other = candidate.inputs(Probe(batch=1, length=length, seed=5, scale=scale))
    position = first_change(candidate, parameters, inputs, splice_time(inputs, other, cut), cut)
    if position is None:
        return None
    return Finding(
        False,
        f"the output at position {position} changes with the tokens from position {cut} on: it sees the future",
        f"length {length}; tokens {cut} to {length - 1} replaced",
    )


def first_change(
    candidate: Candidate, parameters: dict[str, torch.Tensor], inputs: Inputs, changed: Inputs, cut: int
) -> int | None:
    """The first position before `cut` where two runs differ in any bit, or None."""
    first, _ = candidate.run(inputs, parameters)
    second, _ = candidate.run(changed, parameters)
    same = (first[..., :cut, :] == second[..., :cut, :]).movedim(-2, 0).reshape(cut, -1).all(dim=1)
    different = (~same).nonzero()
    return int(different[0]) if len(different) else None
