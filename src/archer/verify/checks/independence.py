"""Other sequences of the batch, and other heads."""

from __future__ import annotations

import torch

from archer.verify.candidate import Candidate, Probe, RuleCandidate, relative_difference
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.smallest import LEAST, Case, refute

TOLERANCE = 1e-9


@check("batch independence", "The other sequences of a batch change nothing.")
def batch_independence(candidate: Candidate) -> Finding:
    """In float64: to the bit when the others change, up to rounding when they are absent."""
    case = Case(candidate, Probe(batch=3, length=100, seed=1))
    tried = "bit-exact whatever else is in the batch"
    return refute([case], _batch_problem, LEAST | {"batch": 2}) or Finding(True, tried)


def _batch_problem(case: Case) -> str:
    inputs, other = case.inputs(), case.inputs(seed=2, scale=7.0)
    changed = {name: torch.cat([x[:1], other[name][1:]]) for name, x in inputs.items()}
    for train in (True, False):
        first, _ = case.run(inputs, train=train)
        second, _ = case.run(changed, train=train)
        alone, _ = case.run({name: x[:1] for name, x in inputs.items()}, train=train)
        if not torch.equal(first[:1], second[:1]):
            return "a sequence's output changes with the other sequences of its batch"
        difference = relative_difference(first[:1], alone)
        if not difference <= TOLERANCE:
            return f"a sequence gives something else alone than in a batch (difference {difference:.1e})"
    return ""


@check("head independence", "Reported: whether one head sees another.")
def head_independence(candidate: Candidate) -> Finding:
    """Never rejects: mixing heads is allowed, and worth knowing."""
    if not isinstance(candidate, RuleCandidate):
        return Finding(True, "not applicable: a mixer's heads are its own affair")
    parameters = candidate.parameters(1, torch.float64)
    inputs = candidate.inputs(Probe(batch=1, length=100, seed=1))
    other = candidate.inputs(Probe(batch=1, length=100, seed=2))
    changed = {name: torch.cat([x[:, :1], other[name][:, 1:]], dim=1) for name, x in inputs.items()}
    with torch.no_grad():
        first, _ = candidate.run(inputs, parameters)
        second, _ = candidate.run(changed, parameters)
    same = torch.equal(first[:, :1], second[:, :1])
    return Finding(True, "heads are independent" if same else "heads see each other (allowed)")
