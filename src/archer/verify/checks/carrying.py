"""State carried across a cut, and decoding token by token."""

from __future__ import annotations

from dataclasses import replace

import torch

from archer.verify.candidate import Candidate, Probe, RuleCandidate, relative_difference, slice_time
from archer.verify.checks.finding import Finding, check

TOLERANCE = 1e-9


@check("carried state", "A sequence cut in two, with the state carried across, gives what one pass gives.")
def carried_state(candidate: Candidate) -> Finding:
    """Cuts fall on multiples of the chunk; outputs and the last state are compared in float64."""
    if not isinstance(candidate, RuleCandidate):
        return Finding(True, "not applicable: a mixer's state is its own affair")
    parameters = candidate.parameters(1, torch.float64)
    size = candidate.chunk_size
    inputs = candidate.inputs(Probe(length=4 * size + 5, seed=4))
    with torch.no_grad():
        whole, last = candidate.run(inputs, parameters)
        for cut in (size, 2 * size, 4 * size):
            first, state = candidate.run(slice_time(inputs, 0, cut), parameters)
            second, end = candidate.run(slice_time(inputs, cut), parameters, state)
            differences = {"output": relative_difference(torch.cat([first, second], dim=-2), whole)}
            differences |= {f"state {name}": relative_difference(end[name], last[name]) for name in last}
            for name, difference in differences.items():
                if not difference <= TOLERANCE:
                    return Finding(
                        False,
                        f"the {name} differs from one pass after a cut (difference {difference:.1e}); "
                        "something passes between chunks outside the state",
                        f"length {4 * size + 5}, cut at {cut}",
                    )
    return Finding(True, f"one pass and two agree within {TOLERANCE:g}")


@check("decoding", "Token by token gives what the parallel form gives.")
def decoding(candidate: Candidate) -> Finding:
    """A rule decodes from the state at its chunk's start, a mixer from its prefix; the last row counts."""
    if isinstance(candidate, RuleCandidate):
        candidate = replace(candidate, chunk_size=8)
    parameters = candidate.parameters(1, torch.float64)
    inputs = candidate.inputs(Probe(batch=1, length=21, seed=6))
    with torch.no_grad():
        whole, _ = candidate.run(inputs, parameters, train=False)
        state, start = None, 0
        for token in range(21):
            row, after = candidate.run(slice_time(inputs, start, token + 1), parameters, state, train=False)
            difference = relative_difference(row[..., -1:, :], whole[..., token : token + 1, :])
            if not difference <= TOLERANCE:
                return Finding(
                    False,
                    f"token {token} decoded alone differs from the parallel form (relative difference "
                    f"{difference:.1e})",
                    f"length 21, chunks of {candidate.chunk_size}, token {token}",
                )
            if candidate.carries_state and (token + 1 - start) == candidate.chunk_size:
                state, start = after, token + 1
    return Finding(True, f"21 tokens one by one agree within {TOLERANCE:g}")
