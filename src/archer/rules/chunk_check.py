"""A chunk kernel beside the plain loop, on the device that is to train with it and before it does.

Tests compare the kernels of the library's rules, on the cards that we have. A new rule brings a kernel that
nobody has seen, a user a card that nobody has tried, and a kernel that computes something else would train a
rule that nobody wrote. So every kernel shows once per process that it computes its rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from archer.rules.chunk_kernel import ChunkKernel
from archer.rules.chunk_trace import ALIASES, NoKernelError, refusing
from archer.rules.inputs import random_inputs
from archer.rules.launch import compiled_only
from archer.rules.loop import (
    State,
    Values,
    initial_state,
    mixed_precision,
    prepare_chunks,
    run_prepared,
    to_chunks,
    with_weights,
)
from archer.rules.rule import Rule

Named = dict[str, Tensor | None]

BOUNDS = {torch.bfloat16: 0.03, torch.float32: 1e-3}
"""Relative errors that rounding alone may give: most stay under 0.01 and 2e-5. A fault gives larger ones."""
ROUNDING = 4
"""An error is also rounding where it is at most so many times that of the plain loop in the same precision:
of a rule that ranks or compares numbers, or a sum in which nearly all cancels."""
SEQUENCES, HEADS, CHUNKS = 16, 4, 3


@torch.enable_grad()
def require_equal(kernel: ChunkKernel, rule: Rule, device: torch.device, dtype: torch.dtype) -> None:
    """Compares outputs, last state and gradients of 16 short sequences in 4 heads with the plain loop.

    dtype: of the sequences, bfloat16 or float32. What the loop gets is prepared on the CPU in dtype; there
    the plain loop takes it, in float64 and in dtype. What is not finite there is not compared: no kernel can
    be wrong about it. Raises NoKernelError where they differ, and where the kernel cannot be compiled.
    """
    with refusing():
        given = _given(kernel, rule, dtype)
    with _refusing_what_cannot_be_compiled(), compiled_only():  # while the plain loop runs
        _results(kernel, rule, given, dtype, device)
    with refusing():
        wanted = _results(kernel, rule, given, torch.float64)
        plain = relative_errors(_results(kernel, rule, given, dtype), wanted)
    with _refusing_what_cannot_be_compiled():
        errors = relative_errors(_results(kernel, rule, given, dtype, device), wanted)
    bound = BOUNDS[dtype]
    wrong = {n: x for n, x in errors.items() if not x <= max(bound, ROUNDING * plain[n])}
    if wrong:
        worst = max(wrong, key=lambda n: wrong[n])
        raise NoKernelError(
            f"it does not compute its rule on this device: {worst} is off by {wrong[worst]:.2g} of its size, "
            f"{plain[worst]:.2g} in the plain loop (please report it, with the rule)"
        )


@dataclass(frozen=True)
class _Given:
    """What a loop gets: prepared values by name, each [N, ..., C, D], parameters, and the first state."""

    prepared: Values
    parameters: Values
    state: State


def _given(kernel: ChunkKernel, rule: Rule, dtype: torch.dtype) -> _Given:
    """Of random sequences, in the precisions that the layer gives them in training."""
    size, value = kernel.trace.out
    drawn = random_inputs(
        rule, leading=(SEQUENCES, HEADS), length=CHUNKS * size, key_width=kernel.trace.carried["S"][0],
        value_width=value, dtype=torch.float32, spread=0.5,
    )  # fmt: skip
    sequence = {"q": drawn.q * drawn.q.shape[-1] ** -0.5, "k": drawn.k, "v": drawn.v, "beta": drawn.beta}
    # a feature's bias is learnt in float32, which makes the feature as wide
    wide = {n: x for n, x in drawn.features.items() if rule.features[n].bias is not None}
    narrow = {n: x.to(dtype) for n, x in (sequence | drawn.features).items() if n not in wide}
    chunks = {n: to_chunks(x, size) for n, x in (narrow | wide).items()}
    with torch.no_grad(), mixed_precision(torch.device("cpu"), dtype):
        prepared = prepare_chunks(rule, chunks, drawn.parameters, torch.zeros(()))
        state = initial_state(rule, chunks["q"][0], chunks["v"][0])
    left_out = {"scores", "weights", *drawn.parameters, *ALIASES} - {*kernel.trace.inputs}
    return _Given({n: x for n, x in prepared.items() if n not in left_out}, drawn.parameters, state)


def _results(
    kernel: ChunkKernel, rule: Rule, given: _Given, dtype: torch.dtype, device: torch.device | None = None
) -> Named:
    """Of the kernel on this device, or of the plain loop (with None); the gradients are by what the kernel
    reads."""

    def moved(x: Tensor) -> Tensor:
        wide = dtype == torch.float64 and x.is_floating_point()
        return x.detach().to(device or "cpu", torch.float64 if wide else x.dtype)

    prepared, parameters, state = (
        {n: moved(x) for n, x in part.items()} for part in (given.prepared, given.parameters, given.state)
    )
    for name in kernel.trace.inputs:
        prepared[name].requires_grad_()
    for name in kernel.trace.parameters:
        parameters[name].requires_grad_()
    if device is not None:
        o, end = kernel.run(prepared, parameters, state, dtype)
    else:
        with mixed_precision(torch.device("cpu"), dtype):
            o, end = run_prepared(rule, with_weights(rule, parameters | prepared), parameters, state)
    read = {n: prepared[n] for n in kernel.trace.inputs} | {n: parameters[n] for n in kernel.trace.parameters}
    outputs = {"o": o, **{f"last {n}": x for n, x in end.items()}}
    return outputs | gradients(outputs, read)


@contextmanager
def _refusing_what_cannot_be_compiled() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_of_a_compiler(error):
            raise
        line = next(iter(str(error).strip().splitlines()), "")
        raise NoKernelError(f"it cannot be compiled here: {type(error).__name__}: {line}") from error


def _is_of_a_compiler(error: Exception) -> bool:
    """Triton's own errors, and those of what it calls, which are RuntimeErrors and no subclass."""
    return type(error) is RuntimeError or type(error).__module__.partition(".")[0] == "triton"


def gradients(outputs: dict[str, Tensor], leaves: dict[str, Tensor]) -> Named:
    """Of a random combination of the outputs, by the leaves; None where a leaf is not used."""
    parts = [(x * normal(x, seed).to(x.dtype)).sum().double() for seed, x in enumerate(outputs.values())]
    found = torch.autograd.grad(sum(parts), list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
    return {f"gradient of {name}": x for name, x in zip(leaves, found, strict=True)}


def normal(like: Tensor, seed: int) -> Tensor:
    """Random numbers in the shape and on the device of another tensor, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def relative_errors(found: Named, wanted: Named) -> dict[str, float]:
    """|found - wanted| / |wanted| by name; infinite where one of the two is missing or not finite."""
    return {name: _relative(found[name], wanted[name]) for name in wanted}


def _relative(found: Tensor | None, wanted: Tensor | None) -> float:
    if found is None or wanted is None:
        present = wanted if found is None else found
        return 0.0 if present is None or not present.any() else float("inf")
    wanted = wanted.double()
    scale = wanted.norm().item() or 1.0
    error = (found.double().to(wanted.device) - wanted).norm().item() / scale
    return error if error < float("inf") else float("inf")
