"""Where a rule differs from its parent at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from archer.rules import Rule
from archer.verify.candidate import Inputs, Probe, RuleCandidate, relative_difference

ROUNDING = 1e-11
LENGTHS = (32, 64, 128, 256, 512, 1_024)


def reach(
    rule: Rule, parent: Rule, lengths: Iterable[int] = LENGTHS, chunk_size: int = 32
) -> tuple[int, ...]:
    """The sequence lengths, of those given, at which a rule computes anything else than its parent.

    Both get the same inputs and shared parameters, at initial and at random values, in float64; what agrees
    within rounding (a relative 1e-11) everywhere is not reached: training cannot tell the two apart there.
    Initial values that a rule declares otherwise than its parent are each one's own. A rule whose layer has
    other defaults than its parent's differs at every length.
    """
    if rule.layer != parent.layer:
        return tuple(lengths)
    return tuple(length for length in lengths if _differs(rule, parent, length, chunk_size))


def _differs(rule: Rule, parent: Rule, length: int, chunk_size: int) -> bool:
    own, other = (RuleCandidate(r, chunk_size, heads=1) for r in (rule, parent))
    for seed in (None, 1):
        probe = Probe(batch=1, length=length, seed=17)
        values, inputs = own.parameters(seed, torch.float64), own.inputs(probe)
        theirs, given = other.parameters(seed, torch.float64), other.inputs(probe)
        if seed is None:  # first values are each one's own, where the two declare them differently
            theirs |= {n: values[n] for n in values if _declared_alike(rule, parent, n)}
            given |= {n: inputs[n] for n in inputs if _declared_alike(rule, parent, n)}
        else:
            theirs, given = {**theirs, **values}, {**given, **inputs}
        with torch.no_grad():
            outputs = (_output(own, inputs, values), _output(other, given, theirs))
        if not relative_difference(*outputs) <= ROUNDING:
            return True
    return False


def _declared_alike(rule: Rule, parent: Rule, name: str) -> bool:
    """Whether a parameter or feature begins as the parent's does; what nobody declares is the same input."""
    ours, theirs = ({**one.parameters, **one.features} for one in (rule, parent))
    return ours.get(name) == theirs.get(name)


def _output(candidate: RuleCandidate, inputs: Inputs, values: Mapping[str, Tensor]) -> Tensor:
    rule = candidate.rule
    given = {name: x for name, x in inputs.items() if name in {"q", "k", "v", "beta", *rule.features}}
    return candidate.run(given, {name: x for name, x in values.items() if name in rule.parameters})[0]
