"""Where a rule differs from its parent at all."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from archer.rules import Rule
from archer.verify.candidate import Probe, RuleCandidate, relative_difference

ROUNDING = 1e-11
LENGTHS = (32, 64, 128, 256, 512, 1_024)


def reach(
    rule: Rule, parent: Rule, lengths: Iterable[int] = LENGTHS, chunk_size: int = 32
) -> tuple[int, ...]:
    """The sequence lengths, of those given, at which a rule computes anything else than its parent.

    Both get the same inputs and shared parameters, at initial and at random values, in float64; what agrees
    within rounding (a relative 1e-11) everywhere is not reached: training cannot tell the two apart there.
    A rule whose layer has other defaults than its parent's differs at every length.
    """
    if rule.layer != parent.layer:
        return tuple(lengths)
    return tuple(length for length in lengths if _differs(rule, parent, length, chunk_size))


def _differs(rule: Rule, parent: Rule, length: int, chunk_size: int) -> bool:
    own, other = (RuleCandidate(r, chunk_size, heads=1) for r in (rule, parent))
    for seed in (None, 1):
        probe = Probe(batch=1, length=length, seed=17)
        values = {**other.parameters(seed, torch.float64), **own.parameters(seed, torch.float64)}
        inputs = {**other.inputs(probe), **own.inputs(probe)}
        plain = {"q", "k", "v", "beta"}
        with torch.no_grad():
            outputs = [
                candidate.run(
                    {n: x for n, x in inputs.items() if n in plain | set(candidate.rule.features)},
                    {n: x for n, x in values.items() if n in candidate.rule.parameters},
                )[0]
                for candidate in (own, other)
            ]
        if not relative_difference(*outputs) <= ROUNDING:
            return True
    return False
