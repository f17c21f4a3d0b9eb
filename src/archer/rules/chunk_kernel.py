"""The chunk loop of any rule as two kernels, forward and gradient, made of its slots.

`archer.rules.chunk_trace` follows one chunk, `archer.rules.chunk_text` writes what it saw as Triton, and what
is here calls it for all heads and chunks at once. The plain loop is its reference; a test compares outputs,
states and all gradients for every rule. N chunks, M heads of all runs and sequences: [N, ..., C, D].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from triton.runtime.errors import OutOfResources  # pyright: ignore[reportMissingImports]

from archer.rules.chunk_text import kernel_text
from archer.rules.chunk_trace import ChunkTrace, NoKernelError, refusing, trace_chunk
from archer.rules.executed import executed
from archer.rules.inputs import random_inputs
from archer.rules.launch import launch
from archer.rules.loop import State, Values
from archer.rules.rule import Rule

_MADE: dict[str, ChunkKernel] = {}
"""By key: operators of PyTorch take numbers, texts and tensors alone."""
_AHEAD: dict[tuple[str, str], int] = {}
"""Stages of reading, where they are not what a kernel is first tried with: by kernel and key."""


@dataclass(frozen=True, eq=False)
class ChunkKernel:
    """The kernels of a rule for one size of chunk, keys and values.

    key: names their text. narrow: inputs that are operands of products alone, which are read as they enter
    these. needed: carried values that the gradient wants as they were before each chunk.
    """

    key: str
    trace: ChunkTrace = field(repr=False)
    text: str = field(repr=False)
    narrow: frozenset[str]
    needed: tuple[str, ...]

    @cached_property
    def kernels(self) -> Any:
        """The two kernels, `forward` and `backward`; compiled when they are first called."""
        module = f"archer_chunk_{self.key}"
        return SimpleNamespace(**executed(self.text, module, f"<chunk kernel {self.key}>"))

    def fits(self, prepared: Values, S: Tensor) -> bool:
        """Whether the loop has what the kernel was made of, in these shapes."""
        shapes = {"v": self.trace.out, **self.trace.inputs}  # v: that chunks are as long, whatever is read
        return S.shape[-2:] == self.trace.carried["S"] and all(
            name in prepared and prepared[name].shape[-2:] == shape for name, shape in shapes.items()
        )

    def run(
        self, prepared: Values, parameters: Values, state: State, kind: torch.dtype
    ) -> tuple[Tensor, State]:
        """All chunks: o [N, ..., C, Dv] and the last state. prepared: what `prepare_chunks` gave; kind: the
        precision of products, bfloat16 or float32."""
        count, leading = prepared["q"].shape[0], state["S"].shape[:-2]
        inputs = []
        for name, shape in self.trace.inputs.items():
            x = prepared[name].to(kind) if name in self.narrow else prepared[name]
            inputs.append(_spread(x, (count, *leading, *shape)))
        names = self.trace.parameters
        once = [_spread(parameters[n].float(), (*leading, *shape)) for n, shape in names.items()]
        start = [_spread(state[n].float(), (*leading, *shape)) for n, shape in self.trace.carried.items()]
        read, kept = len(inputs) + len(once), len(self.needed)
        o, *end = _Chunks.apply(self.key, kind == torch.bfloat16, read, kept, *inputs, *once, *start)  # type: ignore[misc]
        return o, dict(zip(self.trace.carried, end, strict=True))


def chunk_kernel(rule: Rule, size: int, key: int, value: int) -> ChunkKernel:
    """The kernel of a rule for chunks of `size` tokens, keys and values of these widths.

    Raises NoKernelError with the reason where its slots cannot be written as one.
    """
    trace = trace_chunk(rule, size, key, value)
    with refusing():
        _require_independent_heads(rule, size, key, value)
        text = kernel_text(trace, rule.name)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _MADE.setdefault(name, ChunkKernel(name, trace, text, trace.only_in_products, trace.needed))


def _require_independent_heads(rule: Rule, size: int, key: int, value: int) -> None:
    """The trace is of one head alone: a rule that gives something else beside others has no kernel."""
    both = random_inputs(rule, leading=(2,), length=2 * size, key_width=key, value_width=value)
    first = {n: x[0] for n, x in both.parameters.items()}
    with torch.no_grad():
        beside, _ = both.run(rule, chunk_size=size)
        alone, _ = replace(both.map(lambda x: x[0]), parameters=first).run(rule, chunk_size=size)
    if not torch.allclose(beside[0], alone, rtol=1e-9, atol=1e-9, equal_nan=True):
        raise NoKernelError("its heads see each other, or it counts axes from the front")


def _spread(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.expand(shape).contiguous()


def _call(name: str, key: str, half: bool, given: Sequence[Tensor], more: Sequence[Tensor]) -> None:
    """One of the two kernels over all heads.

    Two warps keep a block of 32 by 64 busy, one of 64 by 64 needs four, larger ones eight to hold it. Reading
    ahead takes shared memory: where a card has too little for it, nothing is read ahead (in float32, which is
    for comparisons, this is not worth it).
    """
    kernel = _MADE[key]
    largest = max(rows * columns for rows, columns in kernel.trace.shapes)
    rows, columns = kernel.trace.shapes[0]
    chunks, heads = given[0].shape[0], given[0].numel() // (given[0].shape[0] * rows * columns)
    ahead = _AHEAD.get((name, key), 3 if largest <= 4096 else 2)
    try:
        launch(
            getattr(kernel.kernels, name), (heads,), *given, *more, heads, chunks,
            KIND=tl.bfloat16 if half else tl.float32, P="tf32" if half else "ieee",
            num_warps=2 if largest <= 2048 else 4 if largest <= 4096 else 8, num_stages=ahead,
        )  # fmt: skip
    except OutOfResources:
        if ahead == 1 or not half:
            raise
        _AHEAD[name, key] = 1
        _call(name, key, half, given, more)


@torch.library.custom_op("archer::chunks", mutates_args=())
def _forward(key: str, half: bool, given: list[Tensor]) -> list[Tensor]:
    made = _forward_like(key, half, given)
    _call("forward", key, half, given, made)
    return made


@_forward.register_fake
def _forward_like(key: str, half: bool, given: list[Tensor]) -> list[Tensor]:
    """o, what is kept of the state before each chunk, and the last state."""
    kernel, kind = _MADE[key], torch.bfloat16 if half else torch.float32
    first, start = given[0], given[len(given) - len(kernel.trace.carried) :]
    before, carried = first.shape[:-2], dict(zip(kernel.trace.carried, start, strict=True))
    kept = [
        first.new_empty(before[0], *carried[n].shape, dtype=kind if n == "S" else torch.float32)
        for n in kernel.needed
    ]
    return [first.new_empty(*before, *kernel.trace.out, dtype=kind), *kept, *map(torch.empty_like, start)]


@torch.library.custom_op("archer::chunks_backward", mutates_args=())
def _backward(key: str, half: bool, given: list[Tensor], out: list[Tensor]) -> list[Tensor]:
    made = _backward_like(key, half, given, out)
    _call("backward", key, half, given, [*out, *made])
    return made


@_backward.register_fake
def _backward_like(key: str, half: bool, given: list[Tensor], out: list[Tensor]) -> list[Tensor]:
    """Of inputs, parameters and the first state. given: inputs, parameters, what was kept; out: of o and of
    the last state."""
    read = given[: len(_MADE[key].trace.inputs) + len(_MADE[key].trace.parameters)]
    return [*map(torch.empty_like, read), *map(torch.empty_like, out[1:])]


class _Chunks(torch.autograd.Function):
    """o and the last state, of inputs, parameters and the first state in one list.

    read: how many are inputs and parameters. kept: how many carried values are kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, key: str, half: bool, read: int, kept: int, *given: Tensor) -> tuple[Tensor, ...]:
        made = _forward(key, half, list(given))
        ctx.key, ctx.half = key, half
        ctx.save_for_backward(*given[:read], *made[1 : 1 + kept])
        return made[0], *made[1 + kept :]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        made = _backward(ctx.key, ctx.half, list(ctx.saved_tensors), [g.contiguous() for g in gradients])
        return None, None, None, None, *made
