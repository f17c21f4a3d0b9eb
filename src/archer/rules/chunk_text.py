"""Two Triton kernels as text, from the graphs of `archer.rules.chunk_trace`: the loop, and its gradient.

A program has one head and goes from chunk to chunk (the gradient from the last to the first); all that
happens inside a chunk stays in registers. The gradient does each chunk again, from the state that was kept,
rather than keep what was inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from archer.rules.chunk_operations import HELPERS, Block, Writer, two_axes
from archer.rules.chunk_trace import ChunkTrace, Shape


def kernel_text(trace: ChunkTrace, title: str) -> str:
    """A Python module with the kernels `forward` and `backward` of this chunk.

    forward takes inputs, parameters and the first state, and writes o, what is kept of the state before each
    chunk (`trace.needed`), and the last state. backward takes inputs, parameters, what was kept and the
    gradients of o and of the last state, and writes those of inputs, parameters and the first state. Behind
    these M heads, N chunks, KIND and P (the precision of operands, and of products of float32). What is of
    each chunk is [N, M, rows, columns], the rest [M, rows, columns]. Raises NoKernelError.
    """
    return f'"""{title}"""\n\n' + HELPERS + _forward(trace) + _backward(trace)


def arranged(lines: Sequence[str], results: Sequence[str]) -> list[str]:
    """The same lines in an order in which little has to be held at a time: what can be stored soonest comes
    first, what is read is read where it is first used, and what leads to no store or result is left out."""
    made = {line.partition(" = ")[0]: line for line in lines if not line.startswith("tl.store")}
    stores = {line: _used(line, made) for line in lines if line.startswith("tl.store")}
    assert len(made) + len(stores) == len(lines), "two lines make the same name"
    order = [line for line, needs in stores.items() if not needs]
    waiting = {line: needs for line, needs in stores.items() if needs}
    there: set[str] = set()

    def bring(name: str) -> None:
        if name in there:
            return
        for other in _used(made[name].partition(" = ")[2], made):
            bring(other)
        there.add(name)
        order.append(made[name])

    while waiting:
        nearest = min(waiting, key=lambda line: len(_all_that_lead_to(waiting[line], made) - there))
        for name in waiting.pop(nearest):
            bring(name)
        order.append(nearest)
    for name in (name for text in results for name in _used(text, made)):
        bring(name)
    return order


def _used(text: str, made: Mapping[str, str]) -> list[str]:
    return [name for name in dict.fromkeys(re.findall(r"\w+", text)) if name in made]


def _all_that_lead_to(names: Iterable[str], made: Mapping[str, str]) -> set[str]:
    waiting, found = [name for name in names if name in made], set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _used(made[name].partition(" = ")[2], made)
    return found


class _Text:
    """What both kernels do: read, and name what was read."""

    def __init__(self, trace: ChunkTrace) -> None:
        for shape in (*trace.shapes, trace.out):
            two_axes(shape)  # raises where it is none
        self.trace, self.writer = trace, Writer()
        self.inputs = {n: Block(f"in_{n}", shape) for n, shape in trace.inputs.items()}
        self.parameters = {n: Block(f"once_{n}", shape) for n, shape in trace.parameters.items()}
        self.carried = {n: Block(f"state_{n}", shape) for n, shape in trace.carried.items()}

    def before(self, running: dict[str, Block], prefix: str) -> list[str]:
        """What is read once: the parameters, and what runs from chunk to chunk."""
        lines = ["head = tl.program_id(0).to(tl.int64)"]
        for name, block in self.parameters.items():
            lines.append(f"{block.name} = {_load(f'p_{name}', block.shape, 'head')}.to(tl.float32)")
        for name, block in running.items():
            lines.append(f"{block.name} = {_load(f'{prefix}_{name}', block.shape, 'head')}")
        return lines

    def read(self, pointer: str, block: Block) -> list[str]:
        """Lines that read a block of one chunk. It enters products as it is stored, where that is KIND."""
        read = f"read_{block.name}"
        if 1 not in block.shape:
            self.writer.narrow[block.name] = f"{read}.to(KIND)"
        return [f"{read} = {_load(pointer, block.shape, 'index')}", f"{block.name} = {read}.to(tl.float32)"]

    def inputs_of_a_chunk(self) -> list[str]:
        return [line for name, block in self.inputs.items() for line in self.read(f"p_{name}", block)]

    @property
    def given(self) -> list[Block]:
        return [*self.inputs.values(), *self.parameters.values(), *self.carried.values()]


def _load(pointer: str, shape: Shape, index: str) -> str:
    return f"tl.load(tile({pointer}, {index}, {shape[0]}, {shape[1]}))"


def _store(pointer: str, block: Block, index: str) -> str:
    at = f"tile({pointer}, {index}, {block.shape[0]}, {block.shape[1]})"
    return f"tl.store({at}, {block.name}.to({pointer}.dtype.element_ty))"


def _loop(counter: str, index: str, inside: Sequence[str], following: Mapping[str, str]) -> list[str]:
    """Lines that go from chunk to chunk. following: what becomes of running values, by their names."""
    lines = [index, *arranged(inside, list(following.values()))]
    lines += [f"next_{name} = {new}" for name, new in following.items()]
    lines += [f"{name} = next_{name}" for name in following]
    return [f"for {counter} in range(N):", *(f"    {line}" for line in lines)]


def _kernel(name: str, pointers: Sequence[str], lines: Sequence[str]) -> str:
    arguments = ", ".join([*pointers, "M", "N", "KIND: tl.constexpr", "P: tl.constexpr"])
    body = "".join(f"    {line}\n" for line in lines)
    return f'\n\n@triton.jit(do_not_specialize=["M", "N"])\ndef {name}({arguments}):\n{body}'


def _forward(trace: ChunkTrace) -> str:
    text = _Text(trace)
    inside = text.inputs_of_a_chunk()
    inside += [_store(f"kept_{n}", text.carried[n], "index") for n in trace.needed]
    o, *new = text.writer.body(trace.forward, text.given, [trace.out, *trace.carried.values()])
    inside += [*text.writer.lines, _store("p_o", o, "index")]
    following = {b.name: x.name for b, x in zip(text.carried.values(), new, strict=True)}
    lines = text.before(text.carried, "start")
    lines += _loop("n", "index = n * M + head", inside, following)
    lines += [_store(f"end_{n}", b, "head") for n, b in text.carried.items()]
    pointers = [f"p_{n}" for n in (*text.inputs, *text.parameters)]
    pointers += [f"start_{n}" for n in text.carried] + ["p_o"]
    pointers += [f"kept_{n}" for n in trace.needed] + [f"end_{n}" for n in text.carried]
    return _kernel("forward", pointers, lines)


def _backward(trace: ChunkTrace) -> str:
    text, out = _Text(trace), Block("out_gradient", trace.out)
    gradients = {n: Block(f"g_{n}", b.shape) for n, b in text.carried.items()}
    sums = {n: Block(f"sum_{n}", b.shape) for n, b in text.parameters.items()}
    inside = text.inputs_of_a_chunk()
    inside += [line for n in trace.needed for line in text.read(f"kept_{n}", text.carried[n])]
    inside += text.read("do", out)
    given = [*text.given, out, *gradients.values()]
    made = iter(text.writer.body(trace.backward, given, trace.shapes))
    stores = [_store(f"d_{n}", next(made), "index") for n in text.inputs]
    following = {b.name: f"{b.name} + {next(made).name}" for b in sums.values()}
    following |= {b.name: next(made).name for b in gradients.values()}
    lines = text.before(gradients, "dend")
    lines += [f"{b.name} = tl.zeros({b.shape}, tl.float32)" for b in sums.values()]
    index = "index = (N - 1 - back) * M + head"
    lines += _loop("back", index, [*inside, *text.writer.lines, *stores], following)
    lines += [_store(f"d_{n}", b, "head") for n, b in sums.items()]
    lines += [_store(f"dstart_{n}", b, "head") for n, b in gradients.items()]
    read = (*text.inputs, *text.parameters)
    pointers = [f"p_{n}" for n in read] + [f"kept_{n}" for n in trace.needed] + ["do"]
    pointers += [f"dend_{n}" for n in text.carried] + [f"d_{n}" for n in read]
    return _kernel("backward", [*pointers, *(f"dstart_{n}" for n in text.carried)], lines)
