"""Shapes, types and manners."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from archer.rules.loop import check_prepared, described
from archer.verify.candidate import Candidate, Probe, RuleCandidate
from archer.verify.checks.finding import Finding, check
from archer.verify.checks.smallest import Case, dtype_name, refute

PLACES = {
    "similarity": ("C", "K"),
    "correct": ("K", "Dv"),
    "read": ("C", "Dv"),
    "retain": ("Dk", "Dv"),
    "write": ("Dk", "Dv"),
}
"""What a slot returns: rows and columns, whatever axes stand in front. K: the rows of u, C of them unless
`prepare` says otherwise (a rule that writes twice a token has 2C)."""
PREPARED_PLACES = {
    "u": ("K", "Dv"),
    "w": ("K or 1", "Dk"),
    "q_read": ("C", "Dk"),
    "k_write": ("K", "Dk"),
    "decay": ("C or 1", "K or 1"),
    "keep": ("Dk or 1", "1"),
}
"""The same for what `prepare` hands to the loop. What it hands on to slots of its own may have any shape."""
LENGTHS = (1, 2, 31, 32, 33, 63, 64, 65, 100)


@check(
    "contract",
    "Outputs and state have the declared shapes and types at any length; inputs are left as they were.",
)
def contract(candidate: Candidate) -> Finding:
    """What each slot returns; then every length in LENGTHS in float32, and one in float64 and bfloat16."""
    if isinstance(candidate, RuleCandidate) and (problem := _slot_problem(candidate)):
        return Finding(False, problem)
    probes = [Probe(length=length, dtype=torch.float32) for length in LENGTHS]
    probes += [Probe(length=40, dtype=torch.float64), Probe(length=40, dtype=torch.bfloat16)]
    found = refute((Case(candidate, probe, seed=None) for probe in probes), _problem)
    count = sum(x.numel() for x in candidate.parameters(None, torch.float32).values())
    tried = f"shapes and types hold at lengths {LENGTHS[0]} to {LENGTHS[-1]}; {count} parameters in the probe"
    return found or Finding(True, tried)


def _slot_problem(candidate: RuleCandidate) -> str:
    """What a slot returns that is no matrix of its place: the loop would fail later, in words about something
    else, or would not fail at all, since a number fits everywhere."""
    lengths = (5, candidate.chunk_size)  # a chunk that is not full, and one that is
    return next(filter(None, (_slot_problem_at(candidate, length) for length in lengths)), "")


def _slot_problem_at(candidate: RuleCandidate, length: int) -> str:
    probe, problems = Probe(length=length, dtype=torch.float32), []
    sizes = {"C": probe.length, "Dk": candidate.key_width, "Dv": candidate.value_width}

    def prepare(**given: Any) -> Any:
        returned = check_prepared(candidate.rule, candidate.rule.slots["prepare"](**given))
        if "u" in returned and returned["u"].dim() > 1:
            sizes["K"] = returned["u"].shape[-2]
        for name, place in PREPARED_PLACES.items():
            if name in returned and (problem := _misplaced(returned[name], place, sizes)):
                problems.append(f"slot `prepare` returned, as `{name}`, {problem}")
        return returned

    def watched(slot: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(**given: Any) -> Any:
            returned = function(**given)
            pair = isinstance(returned, tuple) and slot != "similarity"  # a matrix, and carried states
            value = returned[0] if pair and returned else returned
            if problem := _misplaced(value, PLACES[slot], sizes):
                problems.append(f"slot `{slot}` returned {problem}")
            return returned

        return call

    slots = {n: watched(n, f) if n in PLACES else f for n, f in candidate.rule.slots.items()}
    if "prepare" in slots:
        slots["prepare"] = functools.wraps(slots["prepare"])(prepare)
    inputs, parameters = candidate.inputs(probe), candidate.parameters(None, probe.dtype)
    try:
        replace(candidate, rule=replace(candidate.rule, slots=slots)).run(inputs, parameters)
    except Exception:
        if not problems:
            raise
    return problems[0] if problems else ""


def _misplaced(value: Any, place: tuple[str, str], sizes: dict[str, int]) -> str:
    is_tensor = isinstance(value, torch.Tensor)
    there = list(value.shape[-2:]) if is_tensor else []
    here = [_allowed(axis, sizes) for axis in place]
    if len(there) == 2 and all(not may or size in may for size, may in zip(there, here, strict=True)):
        return ""
    got = f"the shape {list(value.shape)}" if is_tensor else described(value)
    rows = "C" if sizes.get("K") == sizes["C"] else "K"
    wanted = ", ".join(re.sub(r"\bK\b", rows, axis) for axis in place)
    numbers = ", ".join(" or ".join(map(str, may)) or "any" for may in here)
    return f"{got}; a tensor [..., {wanted}] was expected, here [..., {numbers}]"


def _allowed(axis: str, sizes: dict[str, int]) -> list[int]:
    """Sizes that an axis may have: of "Dk or 1" two. None: any, where nobody said how many rows u has."""
    names = axis.split(" or ")
    return [] if names[0] not in sizes and names[0] != "1" else [sizes.get(name, 1) for name in names]


def _problem(case: Case) -> str:
    candidate, probe, inputs = case.candidate, case.probe, case.inputs()
    kept = {name: x.clone() for name, x in inputs.items()}
    output, state = candidate.run(inputs, case.parameters)
    if not isinstance(output, torch.Tensor):
        return f"the output is {described(output)}; a tensor was expected"
    expected = candidate.output_shape(inputs)
    if tuple(output.shape) != expected:
        return f"the output has the shape {list(output.shape)}; {list(expected)} was expected"
    if output.dtype not in (probe.dtype, torch.promote_types(probe.dtype, torch.float32)):
        return f"the output is {dtype_name(output.dtype)} for inputs of {dtype_name(probe.dtype)}"
    if output.device != inputs[next(iter(inputs))].device:
        return f"the output is on {output.device}, the input on {inputs[next(iter(inputs))].device}"
    if not bool(output.isfinite().all()):
        return "the output is not finite"
    changed = [name for name, x in kept.items() if not torch.equal(x, inputs[name])]
    if changed:
        return f"the input `{changed[0]}` was changed in place; compute a new tensor instead"
    return (
        _state_problem(candidate, inputs, state, probe.dtype) if isinstance(candidate, RuleCandidate) else ""
    )


def _state_problem(
    candidate: RuleCandidate,
    inputs: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    dtype: torch.dtype,
) -> str:
    expected = candidate.state_shapes(inputs)
    if set(state) - {"tokens"} != set(expected):
        return f"the state holds {sorted(set(state) - {'tokens'})}; {sorted(expected)} was declared"
    kind = torch.promote_types(dtype, torch.float32)
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            return f"the state `{name}` has the shape {list(state[name].shape)}; {list(shape)} was declared"
        if state[name].dtype != kind:
            return f"the state `{name}` is {dtype_name(state[name].dtype)}; keep it in {dtype_name(kind)}"
    return ""
