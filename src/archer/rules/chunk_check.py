"""A chunk kernel beside the plain loop, on the device that is to train with it and before it does.

Tests compare the kernels of the library's rules, on the cards that we have. A new rule brings a kernel that
nobody has seen, a user a card that nobody has tried, and a kernel that computes something else would train a
rule that nobody wrote. So every kernel shows once per process that it computes its rule.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from archer.rules.chunk_kernel import ChunkKernel
from archer.rules.chunk_trace import NoKernelError
from archer.rules.inputs import Inputs, random_inputs
from archer.rules.loop import State
from archer.rules.rule import Rule

Named = dict[str, Tensor | None]

BOUNDS = {torch.bfloat16: 0.05, torch.float32: 1e-3}
"""Relative errors that rounding alone may give: most stay under 0.01 and 2e-5. A fault gives larger ones."""
ROUNDING = 4
"""An error is also rounding where it is at most so many times that of the plain loop in the same precision:
of a rule that ranks or compares numbers, or a sum in which nearly all cancels."""
SEQUENCES, HEADS, CHUNKS = 16, 4, 3


def require_equal(kernel: ChunkKernel, rule: Rule, device: torch.device, dtype: torch.dtype) -> None:
    """Compares outputs and all gradients of 16 short sequences in 4 heads with those of the plain loop.

    dtype: of the sequences, bfloat16 or float32. The plain loop runs on the CPU, in float64 and in dtype;
    what is not finite there is not compared: no kernel can be wrong about it. Raises NoKernelError where
    they differ, and where the kernel cannot be compiled for this device.
    """
    size, value = kernel.trace.out
    key = kernel.trace.carried["S"][0]
    drawn = random_inputs(
        rule, leading=(SEQUENCES, HEADS), length=CHUNKS * size, key_width=key, value_width=value,
        dtype=torch.float32, spread=0.5,
    )  # fmt: skip
    given = drawn.map(lambda x: x.to(dtype))
    wanted = loop_results(rule, given.to(torch.float64), {}, size)
    plain = relative_errors(loop_results(rule, given, {}, size), wanted)
    try:
        found = loop_results(rule, given.to(device), {}, size, kernel)
        errors = relative_errors(found, wanted)
    except Exception as error:
        if not _is_of_a_compiler(error):
            raise
        line = next(iter(str(error).strip().splitlines()), "")
        raise NoKernelError(f"it cannot be compiled here: {type(error).__name__}: {line}") from error
    bound = BOUNDS[dtype]
    wrong = {n: x for n, x in errors.items() if not x <= max(bound, ROUNDING * plain[n])}
    if wrong:
        worst = max(wrong, key=lambda n: wrong[n])
        raise NoKernelError(
            f"it does not compute its rule on this device: {worst} is off by {wrong[worst]:.2g} of its size, "
            f"{plain[worst]:.2g} in the plain loop (please report it, with the rule)"
        )


def _is_of_a_compiler(error: Exception) -> bool:
    """Triton's own errors, and those of what it calls, which are RuntimeErrors and no subclass."""
    return type(error) is RuntimeError or type(error).__module__.partition(".")[0] == "triton"


def loop_results(
    rule: Rule, inputs: Inputs, state: State, chunk_size: int, kernel: ChunkKernel | None = None
) -> Named:
    """A rule's loop from this state (empty: the first): outputs, last state, and the gradients of a fixed
    random combination of them by all that was given."""
    leaves = {n: x.detach().requires_grad_() for n, x in inputs.tensors().items()}
    fresh = replace(
        inputs,
        **{n: leaves[n] for n in ("q", "k", "v", "beta")},
        features={n: leaves[n] for n in inputs.features},
        parameters={n: leaves[n] for n in inputs.parameters},
    )
    start = {n: x.detach().requires_grad_() for n, x in state.items()}
    tokens = torch.zeros((), device=inputs.q.device)
    o, end = fresh.run(rule, {**start, "tokens": tokens} if start else None, chunk_size, kernel)
    outputs = {"o": o, **{f"last {n}": x for n, x in end.items() if n != "tokens"}}
    return {**outputs, **gradients(outputs, leaves | start)}


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
