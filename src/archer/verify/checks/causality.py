"""The future changes nothing before it."""

from __future__ import annotations

from dataclasses import replace

import torch

from archer.verify.candidate import Candidate, Probe, relative_difference, slice_time, splice_time
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.smallest import Case, refute

TOLERANCE = 1e-9
LONG = 2_304
SHORT = (2, 7, 33, 64, 97)
"""Lengths that are cut inside chunks and at their edges; odd and even."""
CUT_EVERYWHERE = 64
"""Up to this length at every position: a leak may be into a single row of a first or of a later chunk."""
LONG_CUTS = (1_000, 2_049, 2_096, 2_111)
PREFIXES = ((67, (1, 5, 31, 32, 33, 48, 64, 66)), (LONG, (2_048, 2_200)))


@check("causality", "Changing the future changes nothing before it, to the bit, at any position and length.")
def causality(candidate: Candidate) -> Finding:
    """In float64. Short sequences are cut everywhere, a long one at positions past 2,048 as well."""
    plain: dict[str, torch.Tensor] = {}

    def problem(case: Case) -> str:
        """The tokens from the position on are replaced, at another scale for every other position."""
        cut = case.position or 0
        uncut = str(replace(case, position=None))
        inputs = case.inputs()
        if uncut not in plain:
            plain[uncut] = case.run(inputs)[0]
        other = case.inputs(seed=5, scale=1.0 if cut % 2 else 20.0)
        changed, _ = case.run(splice_time(inputs, other, cut))
        first = _first_difference(plain[uncut], changed, cut)
        if first is None:
            return ""
        return (
            f"the output at position {first} changes with the tokens from position {cut} on: "
            "it sees the future"
        )

    cases = (
        Case(candidate, Probe(batch=1, length=length, seed=2), cut)
        for length in (*SHORT, LONG)
        for cut in (LONG_CUTS if length == LONG else _cuts(length))
    )
    tried = f"bit-exact in float64 at lengths {', '.join(map(str, SHORT))} and {LONG}"
    return refute(cases, problem) or Finding(True, tried)


@check("length independence", "A prefix run alone gives what it gives inside a longer sequence.")
def length_independence(candidate: Candidate) -> Finding:
    """Up to rounding in float64 (another length may take another kernel)."""
    cases = (
        Case(candidate, Probe(batch=1, length=length, seed=3), prefix)
        for length, prefixes in PREFIXES
        for prefix in prefixes
    )
    tried = f"prefixes agree within {TOLERANCE:g} up to length {LONG}"
    return refute(cases, _prefix_problem) or Finding(True, tried)


def _prefix_problem(case: Case) -> str:
    prefix, inputs = case.position or 0, case.inputs()
    whole, _ = case.run(inputs)
    alone, _ = case.run(slice_time(inputs, 0, prefix))
    difference = relative_difference(alone, whole[..., :prefix, :])
    if difference <= TOLERANCE:
        return ""
    return (
        f"a prefix of length {prefix} gives something else when {case.probe.length - prefix} more follow "
        f"(relative difference {difference:.1e}): the output depends on the total length"
    )


def _cuts(length: int) -> list[int]:
    """Every position of a short sequence; of a longer one those around the chunks' edges and some more."""
    near_edge = (0, 1, 31)
    return [
        t
        for t in range(1, length)
        if length <= CUT_EVERYWHERE or t % 32 in near_edge or t % 7 == 3 or t == length - 1
    ]


def _first_difference(plain: torch.Tensor, changed: torch.Tensor, cut: int) -> int | None:
    """The first position before `cut` where two outputs [..., T, D] differ in any bit, or None."""
    same = (plain[..., :cut, :] == changed[..., :cut, :]).movedim(-2, 0).reshape(cut, -1).all(dim=1)
    different = (~same).nonzero()
    return int(different[0]) if len(different) else None
