"""The same call gives the same, whatever was called before it."""

from __future__ import annotations

import torch

from archer.verify.candidate import Candidate, Probe
from archer.verify.checks.finding import Finding, check


@check("repeatable", "The same call gives the same again, in any order, in training and evaluation mode.")
def repeatable(candidate: Candidate) -> Finding:
    """To the bit. The global random generator must be left where it was."""
    parameters = candidate.parameters(1, torch.float64)
    probes = [
        Probe(length=40, seed=1),
        Probe(length=33, seed=2, batch=1),
        Probe(length=40, seed=3, scale=5.0),
    ]
    asked = [candidate.inputs(probe) for probe in probes]
    before = torch.random.get_rng_state()
    with torch.no_grad():
        first = [candidate.run(inputs, parameters)[0].clone() for inputs in asked]
        if not torch.equal(before, torch.random.get_rng_state()):
            return Finding(
                False,
                "it draws random numbers; a rule is a fixed function (for a mixer: switch dropout off)",
                "one forward call in training mode",
            )
        for index in (2, 0, 1, 1, 0, 2, 0):
            again = candidate.run(asked[index], parameters)[0]
            if not torch.equal(again, first[index]):
                return Finding(
                    False,
                    "the same call gives something else later: it keeps something between calls",
                    f"probe {index} after other probes",
                )
        for index in (0, 1):
            calm = candidate.run(asked[index], parameters, train=False)[0]
            if not torch.equal(calm, first[index]):
                return Finding(
                    False,
                    "evaluation mode gives something else than training mode (dropout, batch statistics)",
                    f"probe {index}, train() and eval()",
                )
    return Finding(True, "bit-exact over ten calls in mixed order, in both modes")
