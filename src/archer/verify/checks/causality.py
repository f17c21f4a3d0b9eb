"""The future changes nothing before it."""

from __future__ import annotations

import torch

from archer.verify.candidate import Candidate, Probe, relative_difference, slice_time, splice_time
from archer.verify.checks.finding import Finding, check

TOLERANCE = 1e-9
LONG = 2_304
SHORT = (2, 7, 33, 64, 97)
"""Lengths that are cut inside chunks and at their edges; odd and even."""
LONG_CUTS = (1_000, 2_049, 2_096, 2_111)


@check("causality", "Changing the future changes nothing before it, to the bit, at any position and length.")
def causality(candidate: Candidate) -> Finding:
    """In float64. Short sequences are cut everywhere, a long one at positions past 2,048 as well."""
    parameters = candidate.parameters(1, torch.float64)
    with torch.no_grad():
        for length in (*SHORT, LONG):
            inputs = candidate.inputs(Probe(batch=1, length=length, seed=2))
            plain, _ = candidate.run(inputs, parameters)
            for cut in LONG_CUTS if length == LONG else _cuts(length):
                scale = 1.0 if cut % 2 else 20.0
                other = candidate.inputs(Probe(batch=1, length=length, seed=5, scale=scale))
                changed, _ = candidate.run(splice_time(inputs, other, cut), parameters)
                position = _first_difference(plain, changed, cut)
                if position is not None:
                    return Finding(
                        False,
                        f"the output at position {position} changes with the tokens from position {cut} on: "
                        "it sees the future",
                        f"length {length}; tokens {cut} to {length - 1} replaced",
                    )
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
    """Every position of a short sequence; of a longer one those around the chunks' edges and some more."""
    near_edge = (0, 1, 31)
    return [
        t for t in range(1, length) if length < 10 or t % 32 in near_edge or t % 7 == 3 or t == length - 1
    ]


def _first_difference(plain: torch.Tensor, changed: torch.Tensor, cut: int) -> int | None:
    """The first position before `cut` where two outputs [..., T, D] differ in any bit, or None."""
    same = (plain[..., :cut, :] == changed[..., :cut, :]).movedim(-2, 0).reshape(cut, -1).all(dim=1)
    different = (~same).nonzero()
    return int(different[0]) if len(different) else None
