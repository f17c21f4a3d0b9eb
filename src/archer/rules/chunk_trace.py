"""One chunk of a rule as two graphs of elementary operations: what it computes, and its gradient.

`run_chunk` is followed with tensors that have shapes and no numbers, without any axis in front of the last
two, in float32: the graphs say what happens to one chunk of one head. `archer.rules.chunk_text` makes a
kernel of them. C tokens of a chunk, keys of width Dk, values of width Dv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from archer.rules.loop import State, Values, initial_state, prepare_chunks, run_chunk, to_chunks
from archer.rules.rule import Rule

MADE_INSIDE = ("scores", "weights", "causal")
"""What the kernel makes of q and k itself, rather than read it."""
ALIASES = {"q_read": "q", "k_write": "k"}
"""Names that are the same tensor unless `prepare` says otherwise."""

Shape = tuple[int, int]


class NoKernelError(Exception):
    """Why a rule's chunk cannot be written as a kernel, in a line."""


@dataclass(frozen=True)
class ChunkTrace:
    """What one chunk computes.

    inputs: what it reads of each chunk, by name, with shapes; parameters: what it reads once; carried: the
    state, S among it. All are [rows, columns]. forward: (inputs, parameters, carried) to (o, next carried).
    backward: the same, then the gradients of o and of the next carried, to the gradients of inputs,
    parameters and carried. Both graphs take and give flat lists in this order.
    """

    inputs: dict[str, Shape]
    parameters: dict[str, Shape]
    carried: dict[str, Shape]
    out: Shape
    forward: fx.Graph
    backward: fx.Graph

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of all that is read and carried, in the order of the graphs."""
        return (*self.inputs.values(), *self.parameters.values(), *self.carried.values())

    @property
    def needed(self) -> tuple[str, ...]:
        """The carried values that the gradient wants as they were before each chunk."""
        given = [node for node in self.backward.nodes if node.op == "placeholder"]
        first = len(self.inputs) + len(self.parameters)
        carried = zip(self.carried, given[first : first + len(self.carried)], strict=True)
        return tuple(name for name, node in carried if node.users)

    @property
    def only_in_products(self) -> frozenset[str]:
        """The inputs that are operands of products and nothing else, forward."""
        given = [node for node in self.forward.nodes if node.op == "placeholder"]
        return frozenset(n for n, node in zip(self.inputs, given, strict=False) if _only_in_products(node))


def _only_in_products(node: fx.Node) -> bool:
    def is_product(user: fx.Node) -> bool:
        name = str(user.target)
        return name.startswith("aten.mm") or (name.startswith("aten.permute") and _only_in_products(user))

    return all(map(is_product, node.users))


@contextmanager
def refusing() -> Iterator[None]:
    """Whatever goes wrong with a rule's text, which may hold anything, is a reason for no kernel."""
    try:
        yield
    except NoKernelError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise NoKernelError(f"it cannot be followed: {type(error).__name__}: {line}") from error


def trace_chunk(rule: Rule, size: int, key: int, value: int) -> ChunkTrace:
    """The graphs of a rule for chunks of `size` tokens.

    Raises NoKernelError where it cannot be followed: where numbers decide which way it goes, say.
    """
    with refusing():
        return _traced(rule, size, key, value)


def _traced(rule: Rule, size: int, key: int, value: int) -> ChunkTrace:
    values, parameters, state = _example(rule, size, key, value)
    parameters = {n: x for n, x in parameters.items() if values[n] is x}  # else `prepare` made one a chunk
    first = {n: x for n, x in values.items() if n not in MADE_INSIDE and n not in parameters}
    for alias, name in ALIASES.items():
        if alias in first and first[alias] is first[name]:
            del first[alias]
    given = [first, parameters, state]
    chunk = _as_function(rule, given, size)
    forward = _graph(chunk, *_flat(given))
    # what nobody reads goes, though a slot may ask for it; the state stays
    read = {n.name for n in forward.nodes if n.op == "placeholder" and n.users}
    names = iter([n.name for n in forward.nodes if n.op == "placeholder"])
    used = [{n: x for n, x in part.items() if next(names) in read} for part in given[:2]] + [state]
    unread = {n: x.shape for part in given for n, x in part.items() if n not in {*used[0], *used[1], *state}}
    chunk = _as_function(rule, used, size, unread)
    flat = _flat(used)
    forward = _graph(chunk, *flat)
    outputs = [node.meta["val"] for node in _outputs(forward)]
    count = len(flat)

    def gradient(*both: Tensor) -> Any:
        return torch.func.vjp(chunk, *both[:count])[1](tuple(both[count:]))

    like = [torch.empty(x.shape, dtype=torch.float32) for x in outputs]
    backward = _graph(gradient, *flat, *like)
    if not used[0]:
        raise NoKernelError("it reads nothing of a chunk")
    inputs, once, carried = ({n: _shape(n, x) for n, x in part.items()} for part in used)
    out = (size, value)
    if tuple(outputs[0].shape) != out:
        raise NoKernelError(f"o has the shape {list(outputs[0].shape)}, expected {list(out)}")
    for (name, shape), x in zip(carried.items(), outputs[1:], strict=True):
        if tuple(x.shape) != shape:
            raise NoKernelError(f"`{name}` becomes {list(x.shape)}, expected {list(shape)}")
    return ChunkTrace(inputs, once, carried, out, forward, backward)


def _example(rule: Rule, size: int, key: int, value: int) -> tuple[Values, Values, State]:
    """What `run_chunk` gets for one chunk of one head, without any number: values, parameters, state."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    sizes = {"1": 1, "Dk": key, "Dv": value}
    with FakeTensorMode():
        widths = {"q": key, "k": key, "v": value, "beta": 1}
        widths |= {n: sizes[feature.width] for n, feature in rule.features.items()}
        chunks = {n: to_chunks(torch.empty(size, width), size) for n, width in widths.items()}
        parameters = {n: torch.empty(sizes[p.rows], sizes[p.columns]) for n, p in rule.parameters.items()}
        prepared = prepare_chunks(rule, chunks, parameters, torch.zeros(()))
        state = initial_state(rule, chunks["q"][0], chunks["v"][0])
    for name, x in prepared.items():
        if not isinstance(x, Tensor) or not (x.is_floating_point() or name in MADE_INSIDE):
            raise NoKernelError(f"`{name}` is no tensor of numbers")
    one = {n: x if x.dim() == 2 else x[0] for n, x in prepared.items() if x.dim() in (2, 3)}
    lost = sorted({*prepared} - {*one})
    if lost:
        shape = list(prepared[lost[0]].shape)
        raise NoKernelError(f"`{lost[0]}` has the shape {shape}, expected [..., rows, columns]")
    for alias, name in ALIASES.items():
        if prepared[alias] is prepared[name]:
            one[alias] = one[name]
    return one, parameters, state


def _as_function(
    rule: Rule, given: list[dict[str, Tensor]], size: int, unread: Mapping[str, torch.Size] | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """`run_chunk` of flat lists: what it reads, then the state; o and the next state. unread: shapes of what
    slots ask for and do not read."""
    inputs, parameters, state = ([*part] for part in given)

    def chunk(*flat: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip((*inputs, *parameters, *state), flat, strict=True))
        values = {n: torch.zeros(shape) for n, shape in (unread or {}).items()}
        values |= {n: named[n] for n in (*inputs, *parameters)}
        same = {alias: name for alias, name in ALIASES.items() if alias not in values and name in values}
        values |= {alias: values[name] for alias, name in same.items()}
        if "q" in values and "k" in values:
            values["scores"] = values["q"] @ values["k"].mT
        values["causal"] = torch.ones(size, size, dtype=torch.bool).tril()
        o, following = run_chunk(rule, values, {n: named[n] for n in state})
        return o, *(following[n] for n in state)

    return chunk


def _graph(function: Callable[..., Any], *given: Tensor) -> fx.Graph:
    from torch.fx.experimental.proxy_tensor import make_fx

    fresh = [torch.empty(x.shape, dtype=torch.float32) for x in given]

    def followed(what: Callable[..., Any]) -> fx.GraphModule:
        pure = torch.func.functionalize(what, remove="mutations")
        return make_fx(pure, decomposition_table=_decompositions(), tracing_mode="fake")(*fresh)

    module = followed(function)
    if any(_is_in_place(node) for node in module.graph.nodes):  # a decomposition's own
        module = followed(module)
    module.graph.eliminate_dead_code()
    return module.graph


def _is_in_place(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "").split(".")[0].endswith("_")


@cache
def _decompositions() -> dict[Any, Any]:
    """PyTorch's own, to elementary operations."""
    from torch._decomp import core_aten_decompositions, get_decompositions

    aten = torch.ops.aten
    further = (
        aten.elu, aten.elu_backward, aten.hardtanh, aten.hardtanh_backward, aten.leaky_relu,
        aten.leaky_relu_backward, aten.linalg_vector_norm, aten.std, aten.std_mean, aten.var_mean,
    )  # fmt: skip
    kept = (aten.tril.default, aten.triu.default)
    both = {**core_aten_decompositions(), **get_decompositions(further)}
    return {op: how for op, how in both.items() if op not in kept}


def _outputs(graph: fx.Graph) -> list[fx.Node]:
    (last,) = [node for node in graph.nodes if node.op == "output"]
    returned = last.args[0]
    return list(returned) if isinstance(returned, tuple | list) else [returned]  # type: ignore[list-item]


def _flat(given: list[dict[str, Tensor]]) -> list[Tensor]:
    return [x for part in given for x in part.values()]


def _shape(name: str, x: Tensor) -> Shape:
    if x.dim() != 2:
        raise NoKernelError(f"`{name}` has the shape {list(x.shape)}, expected [rows, columns]")
    return int(x.shape[0]), int(x.shape[1])
