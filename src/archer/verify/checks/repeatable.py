"""The same call gives the same, whatever was called before it."""

from __future__ import annotations

import torch

from archer.verify.candidate import Candidate, Probe
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.smallest import Case, refute


@check("repeatable", "The same call gives the same again, in any order, in training and evaluation mode.")
def repeatable(candidate: Candidate) -> Finding:
    """To the bit. The global random generator must be left where it was."""
    tried = "bit-exact over ten calls in mixed order, in both modes"
    return refute([Case(candidate, Probe(length=40, seed=1))], _problem) or Finding(True, tried)


def _problem(case: Case) -> str:
    """Three different inputs, called in mixed order and then in evaluation mode."""
    shorter = max(1, case.probe.length - 7)
    asked = (case.inputs(), case.inputs(length=shorter, seed=2, batch=1), case.inputs(seed=3, scale=5.0))
    before = torch.random.get_rng_state()
    first = [case.run(inputs)[0].clone() for inputs in asked]
    if not torch.equal(before, torch.random.get_rng_state()):
        return "it draws random numbers; a rule is a fixed function (for a mixer: switch dropout off)"
    for index in (2, 0, 1, 1, 0, 2, 0):
        if not torch.equal(case.run(asked[index])[0], first[index]):
            return "the same call gives something else later: it keeps something between calls"
    for index in (0, 1):
        if not torch.equal(case.run(asked[index], train=False)[0], first[index]):
            return "evaluation mode gives something else than training mode (dropout, batch statistics)"
    return ""
