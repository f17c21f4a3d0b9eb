"""PyTorch's elementary operations as lines of Triton, for one chunk of one head.

Every value is a block [rows, columns]; what has fewer axes has rows of one. All arithmetic is in float32.
Products take operands in the precision of what is read (KIND) and add up in float32. NaN goes through every
operation. An operation that is not here is refused (NoKernelError).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from archer.rules.chunk_trace import NoKernelError, Shape

SIZES = (16, 32, 64, 128)
"""Lengths of a block's axis, beside one: products take no smaller ones, and registers hold no larger ones."""

POINTWISE = {
    "abs": "tl.abs({0})", "bitwise_and": "{0} & {1}", "bitwise_not": "~{0}", "bitwise_or": "{0} | {1}",
    "ceil": "tl.ceil({0})", "cos": "tl.cos({0})", "div": "{0} / {1}", "eq": "{0} == {1}",
    "erf": "tl.erf({0})", "exp": "tl.exp({0})", "exp2": "tl.exp2({0})", "expm1": "expm1({0})",
    "floor": "tl.floor({0})", "ge": "{0} >= {1}", "gt": "{0} > {1}", "isnan": "{0} != {0}",
    "le": "{0} <= {1}", "log": "tl.log({0})", "log1p": "log1p({0})", "log2": "tl.log2({0})",
    "logical_and": "{0} & {1}", "logical_not": "{0} == 0", "logical_or": "{0} | {1}", "lt": "{0} < {1}",
    "maximum": "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
    "minimum": "tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})",
    "mul": "{0} * {1}", "ne": "{0} != {1}", "neg": "-{0}", "reciprocal": "1.0 / {0}",
    "relu": "tl.where({0} <= 0, 0.0, {0})", "rsqrt": "tl.rsqrt({0})", "sigmoid": "tl.sigmoid({0})",
    "sign": "({0} > 0).to(tl.float32) - ({0} < 0).to(tl.float32)", "sin": "tl.sin({0})",
    "sqrt": "tl.sqrt({0})", "tanh": "tanh({0})", "where": "tl.where({0}, {1}, {2})",
}  # fmt: skip
"""Operations that treat every number alone. A comparison with NaN is false: it stays where it is."""

POWERS = {
    -1.0: "1.0 / {0}", -0.5: "tl.rsqrt({0})", 0.5: "tl.sqrt({0})", 1.0: "{0}", 2.0: "{0} * {0}",
    3.0: "{0} * {0} * {0}", 4.0: "({0} * {0}) * ({0} * {0})",
}  # fmt: skip
LOGICAL = ("logical_and", "logical_or", "bitwise_and", "bitwise_or", "bitwise_not")
COMPARISONS = ("eq", "ge", "gt", "isnan", "le", "logical_not", "lt", "ne")
COMPUTED_IN = (torch.float32, torch.bool, torch.int32, torch.int64)
SHORT_NUMBERS = ((torch.uint8, "arange"), (torch.uint8, "unsqueeze"))
"""PyTorch counts the rows and columns of `eye` so: there, 8 bits lose nothing."""
TYPES = {"bool": "tl.int1", "int": "tl.int32", "float": "tl.float32"}

HELPERS = """import triton
import triton.language as tl


@triton.jit
def tile(pointer, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    return pointer + index * ROWS * COLUMNS + rows[:, None] * COLUMNS + columns[None, :]


@triton.jit
def log1p(x):
    y = 1.0 + x
    return tl.where((y == 1.0) | (x == float("inf")), x, tl.log(y) * (x / (y - 1.0)))


@triton.jit
def expm1(x):
    y = tl.exp(x)
    near = (y - 1.0) * (x / tl.log(y))
    return tl.where(y == 1.0, x, tl.where((y > 2.0) | (y < 0.5), y - 1.0, near))


@triton.jit
def tanh(x):
    y = expm1(-2.0 * tl.abs(x))
    y = -y / (2.0 + y)
    return tl.where(x < 0, -y, y)


@triton.jit
def power(x, y):
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    size = tl.where(x == 0, tl.where(y > 0, 0.0, tl.where(y < 0, float("inf"), y)), size)
    whole, even = tl.floor(y) == y, tl.floor(y * 0.5) == y * 0.5
    signed = tl.where(x < 0, tl.where(whole, tl.where(even, size, -size), float("nan")), size)
    return tl.where(y == 0, 1.0, signed)
"""
"""What the lines call, as the beginning of a module."""


@dataclass(frozen=True)
class Block:
    """A value: its name, its shape [rows, columns], and whether it is "float", "int" or "bool"."""

    name: str
    shape: Shape
    kind: str = "float"


@dataclass(frozen=True)
class Largest:
    """The places of the `count` largest numbers along an axis, which only `scatter` can use."""

    block: Block
    axis: int
    count: int


@dataclass(frozen=True)
class Flipped:
    """A block whose order along an axis is reversed, which only a sum from the other end can use."""

    block: Block
    axis: int


@dataclass(frozen=True)
class Call:
    """A node of the graph, with blocks in the place of nodes in its arguments."""

    node: fx.Node
    arguments: list[Any]
    named: dict[str, Any]

    @property
    def logical(self) -> torch.Size:
        """The shape as PyTorch has it."""
        return self.node.meta["val"].shape

    @property
    def shape(self) -> Shape:
        return two_axes(self.logical)

    @property
    def kind(self) -> str:
        return _kind(self.node.meta["val"].dtype)

    def axes(self, dims: Any = None) -> list[int]:
        """Axes of the first argument's block from those that PyTorch counts; none given: all."""
        rank = len(self.node.args[0].meta["val"].shape)  # type: ignore[union-attr]
        if dims is None or dims == []:
            return [0, 1]
        each = [dims] if isinstance(dims, int) else list(dims)
        return [axis for d in each if (axis := d % rank - rank + 2) >= 0] if rank else []

    def the_same(self, flipped: Flipped, axis: int) -> Flipped:
        """What is flipped, if along this axis; else it is refused."""
        if flipped.axis != axis:
            raise NoKernelError(f"`{self.node.target}` is along another axis than what is flipped")
        return flipped

    def one_of(self, block: Block, dim: int, start: int | None, stop: int | None) -> tuple[int, int | None]:
        """Axis and index of a slice of one; the index of a whole slice is None. Others are refused."""
        axes = self.axes(dim)
        if not axes:
            raise NoKernelError(f"`{self.node.target}` is along an axis that a block has not")
        (axis,) = axes
        size = block.shape[axis]
        first, last, _ = slice(start, stop).indices(size)
        if (first, last) == (0, size):
            return axis, None
        if last - first == 1:
            return axis, first
        raise NoKernelError(
            f"`{self.node.target}` is of {last - first} out of {size}: one or all can be taken"
        )


@dataclass
class Writer:
    """Lines of one chunk's body.

    narrow: what blocks are as operands of products; what is read is so already. turns: of each block that is
    another one transposed, that other.
    """

    lines: list[str] = field(default_factory=list)
    narrow: dict[str, str] = field(default_factory=dict)
    turns: dict[str, Block] = field(default_factory=dict)

    def body(self, graph: fx.Graph, given: Sequence[Block], outputs: Sequence[Shape]) -> list[Block]:
        """Writes a graph down. Returns its outputs, spread to their shapes."""
        known: dict[fx.Node, Any] = {}
        names, made = iter(given), []
        for node in graph.nodes:
            if node.op == "placeholder":
                known[node] = next(names)
            elif node.op == "output":
                returned = node.args[0]
                each = returned if isinstance(returned, tuple | list) else [returned]
                made = [self.spread(self.as_float(known[x]), s) for x, s in zip(each, outputs, strict=True)]
            else:
                known[node] = self.operation(node, known)
        return made

    def operation(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        """One node of the graph. Raises NoKernelError for an operation that is not here."""
        arguments: list[Any] = [known.get(x, x) if isinstance(x, fx.Node) else x for x in node.args]
        named: dict[str, Any] = {
            n: known.get(x, x) if isinstance(x, fx.Node) else x for n, x in node.kwargs.items()
        }
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if name == "getitem":
            return arguments[0][arguments[1]]
        value = node.meta["val"]
        for x in value if isinstance(value, tuple | list) else [value]:
            if x.dtype not in COMPUTED_IN and (x.dtype, name) not in SHORT_NUMBERS:
                raise NoKernelError(f"`{node.target}` is computed in {x.dtype}; a kernel computes in float32")
        call = Call(node, arguments, named)
        if name in OPERATIONS:
            made = OPERATIONS[name](self, call)
            return self.as_kind(made, call.kind) if isinstance(made, Block) else made
        if name in POINTWISE and not named and all(isinstance(x, Block | int | float) for x in arguments):
            return self.pointwise(name, call)
        raise NoKernelError(f"`{node.target}` has no form in a kernel")

    def pointwise(self, name: str, call: Call) -> Block:
        given, kind = call.arguments, call.kind
        if name == "where" and kind == "float":
            given = [given[0], *map(self.as_float, given[1:])]
        elif name in COMPARISONS:
            given = given if all(map(_is_whole, given)) else [*map(self.as_float, given)]
        elif name.startswith("logical_"):
            given = [self.as_kind(x, "bool") if isinstance(x, Block) else x for x in given]
        elif name not in LOGICAL and kind == "float":
            given = [*map(self.as_float, given)]
        return self.line(POINTWISE[name].format(*map(text_of, given)), call.shape, kind)

    def line(self, text: str, shape: Shape, kind: str = "float") -> Block:
        """A new block that is computed by this expression."""
        block = Block(f"t{len(self.lines)}", shape, kind)
        self.lines.append(f"{block.name} = {text}")
        return block

    def as_float(self, value: Any) -> Any:
        """A block or number as float32."""
        if isinstance(value, int | float):
            return float(value)
        if not isinstance(value, Block):
            raise NoKernelError(f"{type(value).__name__.lower()} has no form in a kernel on its own")
        return self.as_kind(value, "float")

    def as_kind(self, block: Block, kind: str) -> Block:
        """A block as "float", "int" or "bool"."""
        if block.kind == kind:
            return block
        text = f"{block.name} != 0" if kind == "bool" else f"{block.name}.to({TYPES[kind]})"
        return self.line(text, block.shape, kind)

    def spread(self, block: Block, shape: Shape) -> Block:
        """The block, repeated along axes where it has one and the shape more."""
        if block.shape == shape:
            return block
        return self.line(f"tl.broadcast_to({block.name}, {shape})", shape, block.kind)

    def turned(self, block: Block) -> Block:
        """Transposed."""
        if block.name in self.turns:
            return self.turns[block.name]
        made = self.line(f"tl.trans({block.name})", (block.shape[1], block.shape[0]), block.kind)
        self.turns[made.name] = block
        return made

    def shaped(self, block: Block, logical: Sequence[int]) -> Block:
        """The same numbers in another shape, as far as blocks can."""
        wanted = two_axes(logical)
        if wanted == block.shape:
            return block
        if wanted == block.shape[::-1] and 1 in wanted:
            return self.turned(block)
        raise NoKernelError(f"a block of {list(block.shape)} cannot become one of {list(logical)}")

    def operand(self, block: Block) -> str:
        """A block as an operand of products, in KIND: narrowed once, and turned when it is narrow."""
        if block.name in self.turns:
            return f"tl.trans({self.operand(self.turns[block.name])})"
        if block.name not in self.narrow:
            self.narrow[block.name] = self.line(f"{block.name}.to(KIND)", block.shape).name
        return self.narrow[block.name]

    def reduced(self, how: str, block: Block, axes: Sequence[int]) -> Block:
        """tl.sum or another along axes, which stay, of length one."""
        for axis in axes:
            shape = (1, block.shape[1]) if axis == 0 else (block.shape[0], 1)
            if shape != block.shape:
                block = self.line(f"{how}({block.name}, {axis}, keep_dims=True)", shape)
        return block

    def mean(self, block: Block, axes: Sequence[int], less: float = 0.0) -> Block:
        """The sum, divided by how many there are (less some)."""
        count = math.prod(block.shape[axis] for axis in axes) - less
        total = self.reduced("tl.sum", block, axes)
        return self.line(f"{total.name} / {float(count)!r}", total.shape)


def two_axes(shape: Sequence[int]) -> Shape:
    """The last two axes of a shape whose other axes are one; a vector is a row. Raises NoKernelError."""
    padded = (1, 1, *(int(size) for size in shape))
    if any(size != 1 for size in padded[:-2]) or any(size not in (1, *SIZES) for size in padded[-2:]):
        raise NoKernelError(
            f"a shape of {list(shape)}: two axes are expected, each 1, 16, 32, 64 or 128 long"
        )
    return padded[-2], padded[-1]


def text_of(value: Any) -> str:
    """A block's name, or a number as Triton reads it."""
    if isinstance(value, Block):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return f"({value!r})" if value < 0 else repr(value)


def _kind(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "bool"
    return "float" if dtype.is_floating_point else "int"


def _is_whole(value: Any) -> bool:
    return value.kind == "int" if isinstance(value, Block) else isinstance(value, int)


def _index(block: Block, axis: int) -> str:
    """The index along an axis, in the shape that it has there."""
    return f"tl.arange(0, {block.shape[axis]})" + ("[:, None]" if axis == 0 else "[None, :]")


Operation = Callable[[Writer, Call], Any]


def _sum_of_two(sign: str) -> Operation:
    def how(writer: Writer, call: Call) -> Block:
        left, right, *alpha = call.arguments
        if call.kind == "float":
            left, right = writer.as_float(left), writer.as_float(right)
        if call.kind == "bool":  # PyTorch adds them so
            return writer.line(f"{text_of(left)} | {text_of(right)}", call.shape, "bool")
        (factor,) = alpha or [call.named.get("alpha", 1)]
        scaled = text_of(right) if factor == 1 else f"{text_of(right)} * {text_of(factor)}"
        return writer.line(f"{text_of(left)} {sign} {scaled}", call.shape, call.kind)

    return how


def _product(writer: Writer, call: Call) -> Block:
    """A matrix product; where an axis is one, sums of numbers that are multiplied one by one."""
    left, right = map(writer.as_float, call.arguments)
    (rows, inner), columns = left.shape, right.shape[1]
    if inner == 1:
        return writer.line(f"{left.name} * {right.name}", (rows, columns))
    if rows == 1:
        each = writer.line(f"{writer.turned(left).name} * {right.name}", right.shape)
        return writer.reduced("tl.sum", each, [0])
    if columns == 1:
        each = writer.line(f"{left.name} * {writer.turned(right).name}", left.shape)
        return writer.reduced("tl.sum", each, [1])
    a, b = writer.operand(left), writer.operand(right)
    return writer.line(f"tl.dot({a}, {b}, input_precision=P)", (rows, columns))


def _permute(writer: Writer, call: Call) -> Block:
    block, order = call.arguments
    rank = len(order)
    order = [d % rank for d in order]
    if order == [*range(rank)]:
        return block
    if order == [*range(rank - 2), rank - 1, rank - 2]:
        return writer.turned(block)
    raise NoKernelError(f"`{call.node.target}` moves other axes than the last two")


def _reshape(writer: Writer, call: Call) -> Block:
    return writer.shaped(call.arguments[0], call.logical)


def _expand(writer: Writer, call: Call) -> Block:
    return writer.spread(call.arguments[0], call.shape)


def _converted(writer: Writer, call: Call) -> Block:
    """Also copies, which are nothing here."""
    return writer.as_kind(call.arguments[0], call.kind)


def _sum(writer: Writer, call: Call) -> Block:
    block, *dims = call.arguments
    total = writer.reduced("tl.sum", writer.as_float(block), call.axes(*dims[:1]))
    return writer.shaped(total, call.logical)


def _mean(writer: Writer, call: Call) -> Block:
    block, *dims = call.arguments
    return writer.shaped(writer.mean(block, call.axes(*dims[:1])), call.logical)


def _variance(writer: Writer, call: Call) -> Block:
    block, *dims = call.arguments
    axes, correction = call.axes(*dims[:1]), call.named.get("correction", 1)
    away = writer.line(f"{block.name} - {writer.mean(block, axes).name}", block.shape)
    squares = writer.line(f"{away.name} * {away.name}", block.shape)
    return writer.shaped(writer.mean(squares, axes, correction), call.logical)


def _extreme(how: str) -> Operation:
    """The largest or smallest number; NaN where one is NaN."""

    def operation(writer: Writer, call: Call) -> Block:
        block, *dims = call.arguments
        axes = call.axes(*dims[:1])
        strange = writer.line(f"({block.name} != {block.name}).to(tl.float32)", block.shape)
        strange = writer.reduced("tl.sum", strange, axes)
        found = writer.reduced(how, block, axes)
        found = writer.line(f'tl.where({strange.name} > 0, float("nan"), {found.name})', found.shape)
        return writer.shaped(found, call.logical)

    return operation


def _softmax(writer: Writer, call: Call) -> Block:
    block, axes = call.arguments[0], call.axes(call.arguments[1])
    most = writer.reduced("tl.max", block, axes)
    powers = writer.line(f"tl.exp({block.name} - {most.name})", block.shape)
    return writer.line(f"{powers.name} / {writer.reduced('tl.sum', powers, axes).name}", block.shape)


def _log_softmax(writer: Writer, call: Call) -> Block:
    block, axes = call.arguments[0], call.axes(call.arguments[1])
    away = writer.line(f"{block.name} - {writer.reduced('tl.max', block, axes).name}", block.shape)
    powers = writer.line(f"tl.exp({away.name})", block.shape)
    return writer.line(f"{away.name} - tl.log({writer.reduced('tl.sum', powers, axes).name})", block.shape)


def _layer_norm(writer: Writer, call: Call) -> tuple[Block, Block, Block]:
    """The result, and what PyTorch gives with it: mean and 1 / deviation."""
    block, over, weight, bias, epsilon = call.arguments
    axes = [1, 0][: len(over)]
    mean = writer.mean(block, axes)
    away = writer.line(f"{block.name} - {mean.name}", block.shape)
    variance = writer.mean(writer.line(f"{away.name} * {away.name}", block.shape), axes)
    scale = writer.line(f"tl.rsqrt({variance.name} + {epsilon!r})", variance.shape)
    made = writer.line(f"{away.name} * {scale.name}", block.shape)
    for other, sign in ((weight, "*"), (bias, "+")):
        if other is not None:
            made = writer.line(f"{made.name} {sign} {other.name}", block.shape)
    return made, mean, scale


def _gelu(writer: Writer, call: Call) -> Block:
    x = call.arguments[0].name
    inner = f"tl.erf({x} * {math.sqrt(0.5)!r})"
    if call.named.get("approximate") == "tanh":
        inner = f"tanh({math.sqrt(2 / math.pi)!r} * ({x} + 0.044715 * {x} * {x} * {x}))"
    return writer.line(f"0.5 * {x} * (1.0 + {inner})", call.shape)


def _power(writer: Writer, call: Call) -> Block:
    base, exponent = map(writer.as_float, call.arguments)
    if exponent in POWERS:
        return writer.line(POWERS[exponent].format(base.name), base.shape)
    blocks = [
        x if isinstance(x, Block) else writer.line(f"tl.full((1, 1), {text_of(x)}, tl.float32)", (1, 1))
        for x in (base, exponent)
    ]
    return writer.line(f"power({blocks[0].name}, {blocks[1].name})", call.shape)


def _clamp(writer: Writer, call: Call) -> Block:
    block, low, high = [*call.arguments, None, None][:3]
    bounds = ((call.named.get("min", low), "<"), (call.named.get("max", high), ">"))
    for bound, sign in bounds:
        if bound is not None:
            limit = text_of(writer.as_float(bound))
            beyond = f"({block.name} {sign} {limit}) | ({block.name} == {block.name}) & ({limit} != {limit})"
            block = writer.line(f"tl.where({beyond}, {limit}, {block.name})", call.shape)
    return block


def _full(writer: Writer, call: Call) -> Block:
    """A constant: the last number that is given, or 0 or 1 by the operation's name."""
    name = str(call.node.target)
    value = 0 if "zeros" in name or "empty" in name else 1 if "ones" in name else call.arguments[-1]
    number = text_of(float(value)) if call.kind == "float" else text_of(int(value))
    return writer.line(f"tl.full({call.shape}, {number}, {TYPES[call.kind]})", call.shape, call.kind)


def _triangle(sign: str) -> Operation:
    def how(writer: Writer, call: Call) -> Block:
        block, diagonal = [*call.arguments, 0][:2]
        inside = f"{_index(block, 1)} {sign} {_index(block, 0)} + {text_of(diagonal)}"
        if block.kind == "bool":
            return writer.line(f"({inside}) & {block.name}", block.shape, "bool")
        zero = "0.0" if block.kind == "float" else "0"
        return writer.line(f"tl.where({inside}, {block.name}, {zero})", block.shape, block.kind)

    return how


def _arange(writer: Writer, call: Call) -> Block:
    start, step = 0, 1
    if len(call.arguments) > 1:
        start, _, step = [*call.arguments, 1][:3]
    counted = f"({text_of(start)} + {text_of(step)} * tl.arange(0, {call.shape[1]})[None, :])"
    return writer.line(f"{counted}.to({TYPES[call.kind]})", call.shape, call.kind)


def _row(writer: Writer, block: Block, axis: int, index: int) -> Block:
    """The row or column at an index."""
    block = writer.as_float(block)
    only = writer.line(f"tl.where({_index(block, axis)} == {index}, {block.name}, 0.0)", block.shape)
    return writer.reduced("tl.sum", only, [axis])


def _slice(writer: Writer, call: Call) -> Block:
    block, dim, start, stop, step = [*call.arguments, *(0, None, None, 1)[len(call.arguments) - 1 :]]
    axis, index = call.one_of(block, dim, start, stop)
    if step != 1:
        raise NoKernelError(f"`{call.node.target}` goes in steps of {step}")
    return block if index is None else _row(writer, block, axis, index)


def _select(writer: Writer, call: Call) -> Block:
    block, dim, index = call.arguments
    (axis,) = call.axes(dim)
    return writer.shaped(_row(writer, block, axis, index % block.shape[axis]), call.logical)


def _put(writer: Writer, call: Call) -> Block:
    """`slice_scatter` and `select_scatter`: another block in the place of one row or column, or of all."""
    base, source, dim, start, stop, step = [
        *call.arguments, *(0, None, None, 1)[len(call.arguments) - 2 :]
    ]  # fmt: skip
    if step != 1:
        raise NoKernelError(f"`{call.node.target}` goes in steps of {step}")
    if "select" in str(call.node.target):
        stop = (start + 1) or None
    axis, index = call.one_of(base, dim, start, stop)
    if index is None:
        return source
    source = writer.shaped(source, (1, base.shape[1]) if axis == 0 else (base.shape[0], 1))
    return writer.line(
        f"tl.where({_index(base, axis)} == {index}, {source.name}, {base.name})", base.shape, base.kind
    )


def _topk(writer: Writer, call: Call) -> tuple[None, Largest]:
    block, count, dim, largest = [*call.arguments, *(-1, True)[len(call.arguments) - 2 :]][:4]
    (axis,) = call.axes(dim)
    if not largest or block.shape[1 - axis] != 1:
        raise NoKernelError(f"`{call.node.target}` is of more than one row or column, or of the smallest")
    return None, Largest(block, axis, count)


def _scatter(writer: Writer, call: Call) -> Block:
    """A number at the places of the largest: those that fewer than `count` others are ahead of."""
    base, dim, chosen, value = call.arguments
    by_topk = isinstance(chosen, Largest) and call.axes(dim) == [chosen.axis] and not call.named
    if not by_topk or not isinstance(value, int | float) or base.shape != chosen.block.shape:
        raise NoKernelError(f"`{call.node.target}` is of anything but one number at the places of `topk`")
    column = chosen.block if chosen.axis == 0 else writer.turned(chosen.block)
    row, square = writer.turned(column), (column.shape[0], column.shape[0])
    r, c = row.name, column.name
    nan_first = [
        writer.line(f"({x} != {x}).to(tl.float32)", b.shape).name for x, b in ((r, row), (c, column))
    ]
    more = writer.line(f"({r} > {c}) | ({nan_first[0]} > {nan_first[1]})", square, "bool")
    less = writer.line(f"({r} < {c}) | ({nan_first[0]} < {nan_first[1]})", square, "bool")
    earlier = f"~{less.name} & ({_index(row, 1)} < {_index(column, 0)})"
    ahead = writer.line(f"({more.name} | ({earlier})).to(tl.float32)", square)
    ranks = writer.reduced("tl.sum", ahead, [1])
    ranks = ranks if chosen.axis == 0 else writer.turned(ranks)
    text = f"tl.where({ranks.name} < {chosen.count}, {text_of(float(value))}, {base.name})"
    return writer.line(text, base.shape)


def _flip(writer: Writer, call: Call) -> Block | Flipped:
    block, dims = call.arguments
    (axis,) = call.axes(dims)
    if not isinstance(block, Flipped):
        return Flipped(block, axis)
    return call.the_same(block, axis).block


def _cumsum(writer: Writer, call: Call) -> Block | Flipped:
    """The gradient of one comes flipped: it adds up from the other end."""
    given, (axis,) = call.arguments[0], call.axes(call.arguments[1])
    block = call.the_same(given, axis).block if isinstance(given, Flipped) else writer.as_float(given)
    if block.shape[axis] > 1:
        other = ", reverse=True" if isinstance(given, Flipped) else ""
        block = writer.line(f"tl.cumsum({block.name}, {axis}{other})", block.shape)
    return Flipped(block, axis) if isinstance(given, Flipped) else block


OPERATIONS: dict[str, Operation] = {
    "_log_softmax": _log_softmax, "_softmax": _softmax, "_to_copy": _converted, "_unsafe_view": _reshape,
    "add": _sum_of_two("+"), "alias": _converted, "amax": _extreme("tl.max"), "amin": _extreme("tl.min"),
    "arange": _arange, "clamp": _clamp, "clone": _converted, "cumsum": _cumsum,
    "detach": _converted, "empty": _full, "empty_permuted": _full, "expand": _expand, "flip": _flip,
    "full": _full, "full_like": _full,
    "gelu": _gelu, "lift_fresh_copy": _converted, "mean": _mean, "mm": _product,
    "native_layer_norm": _layer_norm, "ones": _full, "ones_like": _full, "permute": _permute, "pow": _power,
    "reshape": _reshape, "scalar_tensor": _full, "scatter": _scatter, "select": _select,
    "select_scatter": _put, "slice": _slice, "slice_scatter": _put, "squeeze": _reshape,
    "sub": _sum_of_two("-"), "sum": _sum, "topk": _topk, "tril": _triangle("<="), "triu": _triangle(">="),
    "unsqueeze": _reshape, "var": _variance, "view": _reshape, "zeros": _full, "zeros_like": _full,
}  # fmt: skip
