"""State carried across a cut, and decoding token by token."""

from __future__ import annotations

from dataclasses import replace

import torch

from archer.verify.candidate import Candidate, Probe, RuleCandidate, relative_difference, slice_time
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.smallest import LEAST, Case, refute

TOLERANCE = 1e-9
DECODED = 21


@check("carried state", "A sequence cut in two, with the state carried across, gives what one pass gives.")
def carried_state(candidate: Candidate) -> Finding:
    """Cuts fall on multiples of the chunk; outputs and the last state are compared in float64."""
    if not isinstance(candidate, RuleCandidate):
        return Finding(True, "not applicable: a mixer's state is its own affair")
    probe = Probe(length=4 * candidate.chunk_size + 5, seed=4)
    cases = (Case(candidate, probe, chunks * candidate.chunk_size) for chunks in (1, 2, 4))
    sizes = {name: value for name, value in LEAST.items() if name != "position"}
    return refute(cases, _cut_problem, sizes) or Finding(True, f"one pass and two agree within {TOLERANCE:g}")


def _cut_problem(case: Case) -> str:
    cut, inputs = case.position or 0, case.inputs()
    whole, last = case.run(inputs)
    first, state = case.run(slice_time(inputs, 0, cut))
    second, end = case.run(slice_time(inputs, cut), state)
    differences = {"output": relative_difference(torch.cat([first, second], dim=-2), whole)}
    differences |= {f"state {name}": relative_difference(end[name], last[name]) for name in last}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            return (
                f"the {name} differs from one pass after a cut (difference {difference:.1e}); "
                "something passes between chunks outside the state"
            )
    return ""


@check("decoding", "Token by token gives what the parallel form gives.")
def decoding(candidate: Candidate) -> Finding:
    """A rule decodes from the state at its chunk's start, a mixer from its prefix; the last row counts."""
    if isinstance(candidate, RuleCandidate):
        candidate = replace(candidate, chunk_size=8)
    case = Case(candidate, Probe(batch=1, length=DECODED, seed=6))
    tried = f"{DECODED} tokens one by one agree within {TOLERANCE:g}"
    return refute([case], _decoding_problem) or Finding(True, tried)


def _decoding_problem(case: Case) -> str:
    inputs = case.inputs()
    whole, _ = case.run(inputs, train=False)
    state, start = None, 0
    for token in range(case.probe.length):
        row, after = case.run(slice_time(inputs, start, token + 1), state, train=False)
        difference = relative_difference(row[..., -1:, :], whole[..., token : token + 1, :])
        if not difference <= TOLERANCE:
            return (
                f"token {token} decoded alone differs from the parallel form (relative difference "
                f"{difference:.1e})"
            )
        if case.candidate.carries_state and (token + 1 - start) == case.candidate.chunk_size:
            state, start = after, token + 1
    return ""
