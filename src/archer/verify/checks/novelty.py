"""Whether a known rule already computes this function.

Two rules are the same if they agree, outputs and gradients, on fixed probes. Names, order and layout of the
text do not come into it. Where both have learned parameters, those of one are fitted to the other: if
each can imitate the other at random settings, they are one family under two parametrisations. A cheap
signature (what the output does when inputs are scaled, flipped or permuted) spares most pairs the fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, permutations
from typing import Literal

import torch
from torch import Tensor

from archer.rules import Draw, Rule
from archer.verify.candidate import Inputs, Probe, RuleCandidate, relative_difference
from archer.verify.checks.finding import Finding, check

EXACT = 1e-9
FITTED = 1e-6
NEAR = 0.05
"""A fit that ends farther away than this is not tried again from elsewhere."""
CHUNK = 32
LENGTH = 70
SETTINGS = (11, 12)


@dataclass(frozen=True)
class Behaviour:
    """What is compared before anything is fitted. signature: yes-or-no facts that hold at any parameters."""

    rule: Rule
    signature: tuple[int, ...]


def _probe_candidate(rule: Rule) -> RuleCandidate:
    return RuleCandidate(rule, chunk_size=CHUNK, heads=1, key_width=4, value_width=8)


def behaviour(rule: Rule) -> Behaviour:
    """The signature of a rule: facts about its function that no parameter value changes."""
    candidate = _probe_candidate(rule)
    inputs = candidate.inputs(Probe(batch=1, length=LENGTH, seed=21))
    parameters = candidate.parameters(7, torch.float64)

    def run(changed: Inputs) -> Tensor:
        return candidate.run({**inputs, **changed}, parameters)[0]

    with torch.no_grad():
        plain = run({})
        v, q, k = inputs["v"], inputs["q"], inputs["k"]
        pairs = (
            (run({"v": 2 * v}), 2 * plain),
            (run({"v": -v}), -plain),
            (run({"v": v.flip(-1)}), plain.flip(-1)),
            (run({"q": 2 * q}), 2 * plain),
            (run({"q": q.flip(-1), "k": k.flip(-1)}), plain),
            (run({"q": -q, "k": -k}), plain),
            (run({"beta": inputs["beta"] * 0})[..., :CHUNK, :], 0 * plain[..., :CHUNK, :]),
        )
        facts = [int(relative_difference(a, b) < EXACT) for a, b in pairs]
        shortened = {name: x[..., CHUNK:, :] for name, x in inputs.items()}
        fresh, _ = candidate.run(shortened, parameters)
        facts.append(
            int(relative_difference(fresh[..., :CHUNK, :], plain[..., CHUNK : 2 * CHUNK, :]) < EXACT)
        )
    return Behaviour(rule, (*facts, int(bool(rule.parameters)), len(rule.features)))


_SEEN: dict[str, Behaviour] = {}


def _known_behaviour(rule: Rule) -> Behaviour:
    """The behaviour of a rule that may be asked for again; a hash names what a rule computes."""
    if rule.hash not in _SEEN:
        _SEEN[rule.hash] = behaviour(rule)
    return _SEEN[rule.hash]


Kinship = Literal["none", "family", "same"]


def kinship(first: Rule, second: Rule) -> Kinship:
    """ "same": two rules compute the same function and start at the same place. "family": the same functions,
    under whatever parametrisation, from other first values of their parameters."""
    if first.layer != second.layer or bool(first.parameters) != bool(second.parameters):
        return "none"
    if not first.parameters:
        return "same" if _agree(first, second, {}, {}, EXACT) else "none"
    settings = [_probe_candidate(first).parameters(seed, torch.float64) for seed in SETTINGS]
    alike = _declared(first) == _declared(second) and all(
        _agree(first, second, x, x, EXACT) for x in settings
    )
    if not alike and not (_imitates(first, second) and _imitates(second, first)):
        return "none"
    if _draws(first) or _draws(second):
        return "same" if _draws(first) and _draws(second) else "family"
    mine, theirs = (_probe_candidate(rule).parameters(None, torch.float64) for rule in (first, second))
    return "same" if _agree(first, second, mine, theirs, FITTED) else "family"


def _draws(rule: Rule) -> bool:
    return any(isinstance(parameter.initial, Draw) for parameter in rule.parameters.values())


def _declared(rule: Rule) -> dict[str, tuple[str, str]]:
    return {name: (p.rows, p.columns) for name, p in rule.parameters.items()}


def _agree(
    first: Rule, second: Rule, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float
) -> bool:
    """Outputs and input gradients agree, for some matching of the two rules' features."""
    return any(
        all(
            relative_difference(a, b) <= tolerance
            for a, b in zip(_responses(first, mine, names), _responses(second, theirs, names), strict=True)
        )
        for first, second, names in _matchings(first, second)
    )


def _matchings(first: Rule, second: Rule) -> list[tuple[Rule, Rule, dict[str, str]]]:
    """Ways to feed both rules the same features: a feature of one stands for a feature of the other."""
    mine, theirs = tuple(first.features), tuple(second.features)
    if len(mine) != len(theirs):
        return []
    shapes = {n: (f.width, f.within) for n, f in (*first.features.items(), *second.features.items())}
    found = []
    for order in islice(permutations(theirs), 24):
        if all((first.features[a].width, first.features[a].within) == (second.features[b].width, shapes[b][1])
               for a, b in zip(mine, order, strict=True)):  # fmt: skip
            found.append((first, second, dict(zip(order, mine, strict=True))))
    return found


def _inputs(rule: Rule, names: Mapping[str, str], seed: int) -> Inputs:
    """The probe's inputs; a feature takes its values from its place in the alphabet of the other's names."""
    candidate = _probe_candidate(rule)
    plain = candidate.inputs(Probe(batch=1, length=LENGTH, seed=seed))
    for name in rule.features:
        shared = names.get(name, name)
        generator = torch.Generator().manual_seed(seed + 1_000 + sum(map(ord, shared)))
        raw = torch.randn(plain[name].shape, generator=generator, dtype=torch.float64)
        plain[name] = rule.features[name].value(raw)
    return plain


def _responses(rule: Rule, parameters: Mapping[str, Tensor], names: Mapping[str, str]) -> list[Tensor]:
    """The output, and its gradients by q, k, v and beta."""
    inputs = {name: x.requires_grad_() for name, x in _inputs(rule, names, 31).items()}
    output, _ = _probe_candidate(rule).run(inputs, parameters)
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    leaves = [inputs[name] for name in ("q", "k", "v", "beta")]
    gradients = torch.autograd.grad((output * weights).sum(), leaves, allow_unused=True)
    zero = torch.zeros(1, dtype=torch.float64)
    return [output.detach(), *(zero if g is None else g for g in gradients)]


def _imitates(learner: Rule, teacher: Rule) -> bool:
    """Whether parameters of `learner` can be found that make it `teacher` at random parameters."""
    for matched in _matchings(learner, teacher):
        names = {taught: own for own, taught in matched[2].items()}
        if all(_fit(learner, teacher, names, seed) for seed in SETTINGS):
            return True
    return False


def _fit(learner: Rule, teacher: Rule, names: Mapping[str, str], seed: int) -> bool:
    own = {a: b for b, a in names.items()}
    taught = _probe_candidate(teacher).parameters(seed, torch.float64)
    with torch.no_grad():
        target, _ = _probe_candidate(teacher).run(_inputs(teacher, own, 31), taught)
    inputs = _inputs(learner, {}, 31)
    for start in (None, 5):
        stored = {
            n: x.requires_grad_()
            for n, x in _probe_candidate(learner).parameters(start, torch.float64).items()
        }
        optimiser = torch.optim.LBFGS(
            list(stored.values()),
            max_iter=60,
            tolerance_grad=1e-14,
            tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimiser.zero_grad()  # noqa: B023 - called within the same pass
            output, _ = _probe_candidate(learner).run(inputs, stored)  # noqa: B023
            error = (output - target).square().mean() / target.square().mean()
            error.backward()
            return error

        optimiser.step(loss)
        with torch.no_grad():
            output, _ = _probe_candidate(learner).run(inputs, stored)
        difference = relative_difference(output, target)
        if difference <= FITTED:
            return True
        if not difference <= NEAR:
            return False
    return False


@check("new", "No known rule computes the same function.")
def new(rule: Rule, known: Mapping[str, Rule], found: list[str]) -> Finding:
    """Compares with every known rule; the name of a duplicate is left in `found`."""
    own = behaviour(rule)
    compared, family = 0, []
    for name, other in known.items():
        if other.hash == rule.hash and name == rule.name:
            continue
        compared += 1
        if _known_behaviour(other).signature != own.signature:
            continue
        kin = kinship(rule, other)
        if kin == "same":
            found.append(name)
            return Finding(
                False, f"it computes what `{name}` computes", "outputs and gradients on fixed probes"
            )
        family += [name] if kin == "family" else []
    relatives = f"; the functions of {', '.join(family)} from other first values" if family else ""
    return Finding(True, f"differs from all {compared} known rules{relatives}")
