"""A rule as it trains: runs in front, in the widths, batches, lengths and precisions of training.

The other checks prove laws in small shapes, where what fails can be made smaller still. A slot can tell those
shapes from training's, and some faults show in none of them: parameters have an axis of runs in training
alone, the state is first used in the third chunk, tokens come again, numbers are rounded to bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archer.verify.candidate import Candidate, Inputs, Probe, RuleCandidate, relative_difference, splice_time
from archer.verify.checks.finding import Finding, check

TOLERANCE = 1e-9
RUNS, HEADS, WIDTH = 2, 4, 32
OTHERS = ("later tokens", "the other sequences of its batch", "the other runs of the fleet")
FROM_THE_END = "name axes from the end, dim=-1 or -2, of parameters too: in front stand runs and sequences"


@dataclass(frozen=True)
class Shape:
    """Two runs of so many sequences. words: of so many different tokens; None: no token comes twice."""

    batch: int
    length: int
    cut: int
    dtype: torch.dtype
    words: int | None = None

    def __str__(self) -> str:
        words = f" of {self.words} words" if self.words else ""
        kind = str(self.dtype).removeprefix("torch.")
        return f"two runs of {self.batch} sequences of {self.length} tokens{words}, {kind}"


SHAPES = (
    Shape(3, 101, 70, torch.float64),
    Shape(16, 128, 71, torch.float32, words=4),
    Shape(16, 128, 120, torch.float32, words=24),
    Shape(128, 64, 40, torch.bfloat16),
    Shape(1, 1024, 500, torch.bfloat16, words=24),
)
"""The first is the exact one, in which gradients are looked at too."""


@check(
    "as it trains", "In training's shapes and precisions a token gets what is its own past's, and no more."
)
def as_it_trains(candidate: Candidate) -> Finding:
    """To the bit: nothing changes when later tokens, other sequences and other runs, their parameters too,
    change. In float64: no gradient comes from them, and each run gets what it gets alone."""
    if not isinstance(candidate, RuleCandidate):
        return Finding(True, "not applicable: a mixer sees one run alone")
    value = int(WIDTH * candidate.rule.layer.expand_value)
    trained = replace(candidate, heads=HEADS, key_width=WIDTH, value_width=value)
    for shape in SHAPES:
        problem = _problem(trained, shape)
        if problem:
            return Finding(False, problem, str(shape))
    return Finding(True, f"the same in training's shapes, up to {HEADS} heads of {WIDTH} and 1,024 tokens")


def _problem(candidate: RuleCandidate, shape: Shape) -> str:
    x, y = (_inputs(candidate, shape, seed) for seed in (1, 2))
    stored = _parameters(candidate, shape, (1, 2))
    found = _run(candidate, x, stored)
    everything, *one_by_one = _changes(candidate, shape, x, y, stored)
    if _differs(candidate, shape, found, everything):
        guilty = (one.name for one in one_by_one if _differs(candidate, shape, found, one))
        name = next(guilty, everything.name)
        return f"a token's output changes with {name}" + (f"; {FROM_THE_END}" if name in OTHERS[1:] else "")
    if shape.dtype != torch.float64:
        return ""
    return _alone_problem(candidate, x, shape, found) or _gradient_problem(candidate, x, stored, shape)


@dataclass(frozen=True)
class _Change:
    """Other inputs and parameters, alike in all that the first run's first sequence has before the cut."""

    name: str
    inputs: Inputs
    parameters: Mapping[str, Tensor]


def _changes(
    candidate: RuleCandidate, shape: Shape, x: Inputs, y: Inputs, stored: Mapping[str, Tensor]
) -> list[_Change]:
    """All that may be changed at once, then one by one."""
    later = splice_time(x, y, shape.cut)
    sequences = {n: torch.cat((x[n][:, :1], y[n][:, 1:]), dim=1) for n in x}
    runs = {n: torch.cat((x[n][:1], y[n][1:])) for n in x}
    first = {n: torch.cat((later[n][:1, :1], y[n][:1, 1:]), dim=1) for n in x}
    everything = {n: torch.cat((first[n], y[n][1:])) for n in x}
    other = _parameters(candidate, shape, (1, 3))
    names = ("all of these at once: " + ", ".join(OTHERS), *OTHERS)
    inputs = (everything, later, sequences, runs)
    return list(map(_Change, names, inputs, (other, stored, stored, other)))


def _differs(candidate: RuleCandidate, shape: Shape, found: Tensor, change: _Change) -> bool:
    again = _run(candidate, change.inputs, change.parameters)
    return not torch.equal(_kept(found, shape), _kept(again, shape))


def _alone_problem(candidate: RuleCandidate, x: Inputs, shape: Shape, found: Tensor) -> str:
    """What is wrong where a run gets something else in a fleet than alone."""
    for index, seed in enumerate((1, 2)):
        alone = {n: value[index] for n, value in x.items()}
        with torch.no_grad():
            expected, _ = candidate.run(alone, candidate.parameters(seed, shape.dtype))
        difference = relative_difference(found[index], expected)
        if not difference <= TOLERANCE:
            return f"a run gets something else than alone (difference {difference:.1e}); {FROM_THE_END}"
    return ""


def _gradient_problem(candidate: RuleCandidate, x: Inputs, stored: Mapping[str, Tensor], shape: Shape) -> str:
    """What is wrong where the loss of a token would move what it may not see."""
    inputs = {n: value.clone().requires_grad_() for n, value in x.items()}
    parameters = {n: value.clone().requires_grad_() for n, value in stored.items()}
    output = candidate.run(inputs, parameters)[0]
    leaves = [*inputs.values(), *parameters.values()]
    gradients = torch.autograd.grad(
        _kept(output, shape).square().sum(), leaves, allow_unused=True, materialize_grads=True
    )
    of_inputs, of_parameters = gradients[: len(inputs)], gradients[len(inputs) :]
    seen = (
        [g[0, 0, :, shape.cut :] for g in of_inputs],
        [g[0, 1:] for g in of_inputs],
        [*(g[1:] for g in of_inputs), *(g[1:] for g in of_parameters)],
    )
    for name, parts in zip(OTHERS, seen, strict=True):
        if any(part.any() for part in parts):
            return f"a token's gradient reaches {name}"
    return ""


def _inputs(candidate: RuleCandidate, shape: Shape, seed: int) -> Inputs:
    """[F, B, H, T, D]."""
    batch, length = (1, shape.words) if shape.words else (shape.batch, shape.length)
    runs = [candidate.inputs(Probe(batch, length, seed=10 * seed + run)) for run in range(RUNS)]
    stacked = {n: torch.stack([run[n] for run in runs]) for n in runs[0]}
    if shape.words:
        draw = torch.Generator().manual_seed(seed)
        tokens = torch.randint(shape.words, (RUNS, shape.batch, 1, shape.length, 1), generator=draw)
        stacked = {n: torch.take_along_dim(x, tokens, dim=-2) for n, x in stacked.items()}
    return {n: x.to(shape.dtype) for n, x in stacked.items()}


def _parameters(candidate: RuleCandidate, shape: Shape, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Stored values [F, 1, H, rows, columns], of each run from a seed of its own."""
    dtype = torch.promote_types(shape.dtype, torch.float32)
    runs = [candidate.parameters(seed, dtype) for seed in seeds]
    return {n: torch.stack([run[n] for run in runs])[:, None] for n in runs[0]}


def _run(candidate: RuleCandidate, x: Inputs, stored: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return candidate.run(x, stored)[0]


def _kept(output: Tensor, shape: Shape) -> Tensor:
    """What the first run's first sequence has before the cut."""
    return output[0, 0, :, : shape.cut]
